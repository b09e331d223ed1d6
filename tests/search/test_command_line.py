from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import toy_pipeline
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from typer.testing import CliRunner

from runners.bundle import read_config, write_results
from search.cli import app
from search.cli.options import to_copy
from search.export import export_bundle
from search.output import new_file
from search.storage import default_url, open_storage
from search.study import OVERRIDES, STUDY_FILE, load_study
from space import InputError
from space.errors import DamagedError

Shoebox = Callable[..., subprocess.CompletedProcess[str]]


def check_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    """One sentence on stderr, exit 2, no traceback."""
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("shoebox: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.fixture
def finished(make_engine: Callable[..., Any]) -> Any:
    engine = make_engine(trials=5)
    engine.run()
    return load_study("toy")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["search", "--help"], []])
def test_help_answers_at_once(arguments: list[str]) -> None:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "search.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    assert "shoebox" in done.stdout.lower() + done.stderr.lower()
    assert done.returncode == (0 if arguments else 2)
    assert seconds < 5  # 0.2 s on an idle machine; importing torch would show even so
    modules = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, search.cli; print([m for m in ('torch', 'ray', 'optuna') if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert modules.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pareto", "nothing"], "There is no study 'nothing' in sqlite:///"),
        (["export", "nothing", "--best", "-o", "x"], "There is no study 'nothing'"),
        (["search", "sst3"], "Did you mean 'sst2'?"),
        (["search", "sst2", "--trials", "0"], "--trials: should be at least 1"),
        (["search", "sst2", "--sampler", "x"], "--sampler: should be 'known-cost', 'tpe', 'nsga2'"),
        (["search", "sst2", "--data", "/does/not/exist"], "--data: there is no folder /does/not/exist"),
        (["search", "quickstart", "--device", "cortex-z9", "--latency", "estimated"], "cortex-z9"),
        (["search", "quickstart", "--resume"], "There is no study 'quickstart'"),
        (["search", "quickstart", "--storage", "nonsense"], "not a database URL"),
        (["predict", "/does/not/exist", "text"], "/does/not/exist"),
    ],
)
def test_what_a_user_did_wrong_is_one_sentence(shoebox: Shoebox, arguments: list[str], message: str) -> None:
    check_refused(shoebox(*arguments), message)


@pytest.mark.parametrize(
    "arguments", [["search"], ["search", "sst2", "--trials", "x"], ["nonsense"], ["export", "toy", "-o", "x"]]
)
def test_wrong_usage_exits_with_2(shoebox: Shoebox, arguments: list[str]) -> None:
    done = shoebox(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("toy")
def test_limit_below_the_smallest_student(shoebox: Shoebox, toy_file: Path) -> None:
    toy_file.write_text(toy_file.read_text().replace("deployed_bytes: 600000", "deployed_bytes: 1000"))
    check_refused(
        shoebox("search", str(toy_file)),
        "limits.deployed_bytes is 1,000, but the smallest student of this space takes ",
    )
    check_refused(shoebox("pareto", "toy"), "There is no study 'toy'")


@pytest.mark.usefixtures("toy")
def test_bundles_of_another_study_are_not_written_over(shoebox: Shoebox, toy_file: Path, home: Path) -> None:
    (home / "studies" / "toy" / "trials" / "00000").mkdir(parents=True)
    check_refused(shoebox("search", str(toy_file)), "holds bundles of another")


def test_study_without_a_feasible_trial(shoebox: Shoebox, make_engine: Callable[..., Any]) -> None:
    make_engine()
    for form in ("table", "json", "csv"):
        check_refused(shoebox("pareto", "toy", "--format", form), "has no finished trial that keeps its limits")
    check_refused(shoebox("export", "toy", "--best", "-o", "x"), "has no finished trial that keeps its limits")
    check_refused(shoebox("export", "toy", "--trial", "3", "-o", "x"), "has no trial 3; it has 0")


def test_studies_are_listed(shoebox: Shoebox, finished: Any) -> None:
    done = shoebox("studies")
    assert done.returncode == 0
    assert "quickstart" in done.stdout
    assert "5 of 5" in done.stdout
    assert f"{finished.best().quality:.4f}" in done.stdout


def test_export_of_a_trial(finished: Any, tmp_path: Path) -> None:
    runner = CliRunner()
    record = finished.records()[-1]
    done = runner.invoke(app, ["export", "toy", "--trial", str(record.trial), "-o", str(tmp_path / "deep" / "out")])
    assert done.exit_code == 0, done.output
    assert os.listdir(tmp_path / "deep") == ["out"]
    assert (tmp_path / "deep" / "out" / "model.onnx").read_bytes().startswith(b"toy")


@pytest.mark.parametrize("name", ["model.onnx", "vocab.txt"])
def test_export_of_a_damaged_bundle(finished: Any, tmp_path: Path, name: str) -> None:
    best = finished.best()
    os.truncate(Path(best.bundle) / name, 10)
    with pytest.raises(DamagedError, match=rf"does not hold the student of trial {best.trial} any more"):
        export_bundle(best, tmp_path / "out")
    (Path(best.bundle) / name).unlink()
    with pytest.raises(DamagedError, match=f"is no bundle: {name} missing"):
        export_bundle(best, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bundles_are_found_where_the_home_was_moved_to(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, home, moved = finished.best(), Path(os.environ["SHOEBOX_HOME"]), tmp_path / "moved"
    write_results(Path(best.bundle), read_config(Path(best.bundle)), best)
    home.rename(moved)
    monkeypatch.setenv("SHOEBOX_HOME", str(moved))
    found = load_study("toy")
    bundle = moved / "studies" / "toy" / "trials" / f"{best.trial:05d}"
    assert found.best().bundle == found.measurements[best.trial]["bundle"] == str(bundle)
    assert (export_bundle(found.best(), tmp_path / "out") / "model.onnx").is_file()
    # Of another study of that name, in another storage.
    write_results(bundle, read_config(bundle), best.model_copy(update={"quality": 0.25}))
    assert load_study("toy").best().bundle == best.bundle


def test_export_refuses_an_existing_folder(shoebox: Shoebox, finished: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    check_refused(shoebox("export", "toy", "--best", "-o", str(tmp_path / "out")), "out exists already")
    assert not list((tmp_path / "out").iterdir())


def test_export_of_a_bundle_that_is_gone(finished: Any, tmp_path: Path) -> None:
    shutil.rmtree(finished.best().bundle)
    with pytest.raises(InputError, match="any more"):
        export_bundle(finished.best(), tmp_path / "out")


def test_a_home_folder_is_found_by_its_sign(
    shoebox: Shoebox, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell expands ~ behind an equals sign."""
    user, here = tmp_path / "user", tmp_path / "here"
    user.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.chdir(here)
    assert shoebox("export", "toy", "--best", "--output=~/bundle").returncode == 0
    assert shoebox("study", "export", "toy", "--output=~/toy.zip").returncode == 0
    with new_file(Path("~/page.html")) as file:  # as `report` and `predict` do
        file.write(b"page")
    assert sorted(os.listdir(user)) == ["bundle", "page.html", "toy.zip"]
    assert list(here.iterdir()) == []
    check_refused(shoebox("export", "toy", "--best", "--output=~/bundle"), "bundle exists already")
    check_refused(shoebox("export", "toy", "--best", "--output=~nobody-here/x"), "There is no home folder")


def test_full_disk_leaves_nothing(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.mkdir()

    def full(source: str, destination: str, *arguments: Any, **options: Any) -> None:
        Path(destination).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", destination)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match="out cannot be written: the disk is full"):
        export_bundle(finished.best(), target / "out")
    assert not list(target.iterdir())


def test_conditions_of_a_latency_are_shown(shoebox: Shoebox, finished: Any) -> None:
    assert "latency ms (cortex-a53, 32 tokens, estimated)" in shoebox("pareto", "toy").stdout
    rows = json.loads(shoebox("pareto", "toy", "--format", "json").stdout)["trials"]
    assert len(rows) == len(finished.pareto())
    assert {row["tokens"] for row in rows} == {32}
    header = shoebox("pareto", "toy", "--format", "csv").stdout.splitlines()[0]
    assert header == ",".join(rows[0])


def test_asking_makes_nothing(shoebox: Shoebox, home: Path) -> None:
    listed = shoebox("studies")
    assert listed.returncode == 0
    assert "quickstart" in listed.stdout
    assert "None in the storage yet." in listed.stdout
    check_refused(shoebox("pareto", "toy"), "There is no study 'toy'")
    check_refused(shoebox("export", "toy", "--best", "-o", "x"), "There are none yet")
    assert not home.exists()


@pytest.mark.usefixtures("finished", "toy")
def test_a_study_of_another_version(shoebox: Shoebox, make_engine: Callable[..., Any], toy_file: Path) -> None:
    old = make_engine(name="old", trials=1)
    old.study.set_user_attr(STUDY_FILE, {**old.file.model_dump(mode="json"), "colour": "red"})
    sentence = "Study 'old' was made by another version of Shoebox (colour: "
    check_refused(shoebox("search", str(toy_file), "--name", "old", "--resume"), sentence)
    old.run(1)
    check_refused(shoebox("pareto", "old"), sentence)
    listed = shoebox("studies")
    assert listed.returncode == 0
    assert "made by another version" in listed.stdout
    assert "5 of 5" in listed.stdout


@pytest.mark.usefixtures("toy")
def test_stopped_before_the_study_exists(shoebox: Shoebox, toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(plan: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(toy_pipeline, "prepare", stopped)
    done = shoebox("search", str(toy_file))
    assert done.returncode == 130
    sentence = "Stopped before the first trial; run the same command again (a finished teacher is kept)."
    assert done.stderr.splitlines() == [sentence]


@pytest.mark.usefixtures("toy")
def test_the_line_to_resume_by_is_a_shells(
    shoebox: Shoebox, toy_file: Path, make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.run.run_trials", stopped)
    file = toy_file.rename(toy_file.with_name("my study.yaml"))
    done = shoebox("search", str(file), "--name", "mine")
    assert done.returncode == 130
    line = f"Resume with: shoebox search '{file}' --name mine --resume"
    assert line in done.stderr
    assert shoebox("search", str(file), "--name", "mine", "--resume").stderr.count(line) == 1


@pytest.mark.usefixtures("toy")
def test_a_study_half_made_counts_as_none(shoebox: Shoebox, toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna.create_study(study_name="toy", storage=open_storage(default_url()))
    check_refused(shoebox("pareto", "toy"), "There is no study 'toy'")
    check_refused(shoebox("search", str(toy_file), "--resume"), "There is no study 'toy'")
    monkeypatch.setattr("search.run.run_trials", lambda *_: None)
    done = shoebox("search", str(toy_file))  # made anew; without trials there is no front to print
    assert (done.returncode, "no trial of study 'toy' has finished within its limits" in done.stderr) == (1, True)
    assert load_study("toy").objectives == ["quality", "latency_ms"]


@pytest.mark.usefixtures("toy")
def test_a_study_whose_options_were_not_written_yet_counts_as_none(
    shoebox: Shoebox, toy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = optuna.Study.set_user_attr

    def killed(study: optuna.Study, key: str, value: Any) -> None:
        if key == OVERRIDES:
            raise KeyboardInterrupt
        write(study, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "set_user_attr", killed)
        assert shoebox("search", str(toy_file), "--seed", "5").returncode == 130
    check_refused(shoebox("search", str(toy_file), "--resume"), "There is no study 'toy'")


@pytest.mark.usefixtures("toy")
def test_a_study_with_records_of_another_version_is_not_resumed(
    shoebox: Shoebox, toy_file: Path, make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(limits={"deployed_bytes": 600_000})
    monkeypatch.setenv("SHOEBOX_TOY_MOST_MS", "100")
    engine.run(1)
    trial = engine.study.get_trials(states=[TrialState.COMPLETE])[0]
    with sqlite3.connect(default_url().removeprefix("sqlite:///")) as connection:
        connection.execute(
            "UPDATE trial_user_attributes SET value_json = json_set(value_json, '$.younger', 1) "
            "WHERE trial_id = ? AND key = 'record'",
            [trial._trial_id],
        )
    done = shoebox("search", str(toy_file), "--resume", "--trials", "3")
    check_refused(done, "Study 'toy' was made by another version of Shoebox (younger: ")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "No space left on device /x."),
        (StorageInternalError("commit"), "The storage of the study does not work: "),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(
    shoebox: Shoebox, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error from (OSError("database or disk is full") if isinstance(error, StorageInternalError) else None)

    monkeypatch.setattr("search.query.selection.load_study", fail)
    check_refused(shoebox("pareto", "toy"), message)


def test_emulator_install(shoebox: Shoebox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def install(report: Callable[[str], None]) -> SimpleNamespace:
        report("Downloading the parts")
        return SimpleNamespace(folder=tmp_path)

    monkeypatch.setattr("runners.emulator.install", install)
    done = shoebox("emulator", "install")
    assert (done.returncode, done.stdout) == (0, f"Ready in {tmp_path}\n")
    assert done.stderr == "Downloading the parts\n"


def test_emulator_check(shoebox: Shoebox, monkeypatch: pytest.MonkeyPatch) -> None:
    done = shoebox("emulator", "check")  # an empty cache
    assert done.returncode == 2
    assert done.stdout.startswith("emulated: not installed")
    assert "Run `shoebox emulator install`." in done.stderr
    monkeypatch.setattr("runners.emulator.check", lambda report: report("cortex-a53: 12 instructions"))
    done = shoebox("emulator", "check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "cortex-a53: 12 instructions\n", "")


def test_facade() -> None:
    import search

    assert all(getattr(search, name) is not None for name in search.__all__)
    with pytest.raises(AttributeError):
        _ = search.nothing


@pytest.mark.parametrize(
    ("storage", "line"),
    [
        (None, "shoebox export own --best"),
        ("sqlite:////a b/s.db", "shoebox export own --storage 'sqlite:////a b/s.db' --best"),
        ("postgresql://me@host/name", "shoebox export own --storage postgresql://me@host/name --best"),
        ("postgresql://me:s3cret@host/name", "shoebox export own --best with SHOEBOX_STORAGE set to that storage"),
        (
            "postgresql://host/name?password=s3cret",
            "shoebox export own --best with SHOEBOX_STORAGE set to that storage",
        ),
    ],
)
def test_commands_to_copy_hold_no_password(storage: str | None, line: str) -> None:
    assert to_copy(["shoebox", "export", "own"], storage, "--best") == line


def test_warm_starts_are_said_to_be_of_four_studies_at_most(shoebox: Shoebox) -> None:
    shown = " ".join(shoebox("search", "--help").stdout.replace("│", " ").split())
    assert "auto for the most similar ones, four at most" in shown
