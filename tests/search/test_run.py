"""Searches by the real command line on a real Ray, with a trial pipeline that does not train."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from search.budget import SEARCHED
from search.states import BYTES
from search.storage import default_url, find_study, open_storage
from search.study import DATA, OVERRIDES, TIMED_WITH, load_study
from space.errors import InputError

Shoebox = Callable[..., subprocess.CompletedProcess[str]]
LINE = re.compile(r"\d\d:\d\d:\d\d trial \d+ .* \(\d+ of \d+ trials, .*\)$")


TEXTS = (("transfer", "sources"), ("pretraining", "sources"), ("pretraining", "exclude"))
STARTED: set[int] = set()  # processes of this module's searches, whose folders are named after them


def run(command: list[str], seconds: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    STARTED.add(process.pid)
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
        # What runs in the background ignores SIGINT and hands that on: the tests may, the search should not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    STARTED.add(process.pid)
    return process


def wait_for_trained(count: int, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if len(load_study("toy").trials("finished")) >= count:
                return
        except ValueError:
            pass  # the study is not there yet
        time.sleep(0.1)
    raise AssertionError(f"fewer than {count} trials finished in {seconds} s")


def wait_for_one_that_trains(seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not any(trial.state is TrialState.RUNNING and BYTES in trial.user_attrs for trial in frozen()):
        assert time.monotonic() < until, f"no trial was handed out in {seconds} s"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    def ours() -> set[str]:
        found = {entry.name for entry in Path(tempfile.gettempdir()).glob("shoebox-[0-9]*-*")}
        # Searches of others may run, and be killed, at the same time: those of tests beside these, too.
        return {name for name in found if int(name.split("-")[1]) in {os.getpid(), *STARTED}}

    before = ours()
    yield
    # A killed search leaves its folder to the next one, which is why the kill test ends with a resumed search.
    assert not ours() - before


def frozen(name: str = "toy") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=open_storage(default_url())).get_trials()


def states(name: str = "toy") -> list[str]:
    return [trial.state for trial in load_study(name).trials()]


@pytest.mark.usefixtures("toy")
def test_a_study_from_start_to_front(
    shoebox_command: list[str], shoebox: Shoebox, toy_file: Path, tmp_path: Path
) -> None:
    # Nothing is infeasible, so that every trial is trained.
    toy_file.write_text(toy_file.read_text().replace("deployed_bytes: 600000", "deployed_bytes: 20000000"))
    environment = {"SHOEBOX_TOY_FAIL": "1", "SHOEBOX_TOY_NAN": "2", "SHOEBOX_TOY_CRASH": "3"}
    command = [*shoebox_command, "search", str(toy_file)]
    done = run([*command, "--trials", "8"], **environment)
    assert done.returncode == 0, done.stderr
    # Nothing but our own lines: one for each trial that ended.
    lines = done.stderr.splitlines()
    assert all(LINE.match(line) for line in lines), done.stderr
    assert len(lines) == 9
    study = load_study("toy")
    assert len(study.trials("finished")) == 6
    errors = {trial.number: trial.error for trial in study.trials("failed")}
    assert errors == {
        1: "RuntimeError: the toy was told to fail",
        2: "the measured quality is nan, not a number",
    }
    # A trial whose worker died is run once more.
    assert [trial.number for trial in study.trials("orphaned")] == [3]
    assert "trial 3 lost its worker and is run again" in done.stderr
    assert [trial.user_attrs["retry_of"] for trial in frozen() if "retry_of" in trial.user_attrs] == [3]
    assert all(Path(record.bundle).is_dir() for record in study.records())
    best = study.best()
    assert "accuracy (validation)" in done.stdout
    assert "latency ms (cortex-a53, 32 tokens, estimated)" in done.stdout
    assert "estimated were computed" in done.stdout
    assert f"Best bundle: trial {best.trial}, {best.bundle}" in done.stdout

    # Ask it.
    answer = json.loads(shoebox("pareto", "toy", "--format", "json").stdout)
    assert [row["trial"] for row in answer["trials"]] == [record.trial for record in study.pareto()]
    assert answer["split"] == "validation"
    table = shoebox("pareto", "toy", "--format", "csv").stdout.splitlines()
    assert table[0].startswith(
        "study,task,trial,quality,quality_on_arm,quality_here,arm_examples,metric,latency_ms,device,tokens,"
    )
    assert len(table) == 1 + len(study.pareto())
    assert shoebox("export", "toy", "--best", "-o", str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out" / "model.onnx").read_bytes().startswith(b"toy")

    # Start it again.
    again = shoebox("search", str(toy_file))
    assert again.returncode == 2
    assert "There is a study 'toy' in sqlite:///" in again.stderr
    assert "--resume" in again.stderr
    assert "--name" in again.stderr

    # Make it longer; options that it was started with are kept, finished trials are not run again. Another version of
    # the runtime has come meanwhile.
    stored = optuna.load_study(study_name="toy", storage=open_storage(default_url()))
    stored.set_user_attr(TIMED_WITH, {**stored.user_attrs[TIMED_WITH], "onnxruntime": "1.0"})
    longer = run([*command, "--resume", "--trials", "10"])
    assert longer.returncode == 0, longer.stderr
    warning, *lines = longer.stderr.splitlines()
    assert "'toy' was timed with other tools until now (onnxruntime changed)" in warning
    assert warning.endswith(": shoebox pareto toy --device cortex-a53 --latency estimated")
    assert len(lines) == 2
    assert len(load_study("toy").trials("finished")) == 8

    # Change it.
    changed = shoebox("search", str(toy_file), "--resume", "--seed", "5")
    assert changed.returncode == 2
    assert "search.seed changed since" in changed.stderr


def test_killed_and_resumed(shoebox_command: list[str], toy_file: Path) -> None:
    command = [*shoebox_command, "search", str(toy_file), "--trials", "12"]
    driver = start(command, SHOEBOX_TOY_SECONDS="6")  # so that no orphaned worker ends a trial first
    try:
        wait_for_trained(2)  # one of each worker, so that those that run have just begun
        wait_for_one_that_trains()
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
    assert "running" in states()
    finished = {trial.number: trial.record for trial in load_study("toy").trials("finished")}
    done = run([*command, "--resume"])
    assert done.returncode == 0, done.stderr
    after = load_study("toy")
    assert len(after.trials("finished")) == 12
    assert set(states()) <= {"finished", "infeasible", "orphaned"}
    assert {number: after.trial(number).record for number in finished} == finished
    # Those that a worker had are repeated with their parameters; one that was being asked for is asked for anew.
    given_out = [trial for trial in frozen() if "orphaned" in trial.user_attrs and BYTES in trial.user_attrs]
    repeated = [trial.params for trial in after.trials("finished")]
    assert given_out
    assert all(trial.params in repeated for trial in given_out)
    assert f"run again: {len(after.trials('orphaned'))}." in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed(shoebox_command: list[str], toy_file: Path, number: signal.Signals) -> None:
    command = [*shoebox_command, "search", str(toy_file), "--trials", "12"]
    # On a busy machine it takes seconds until the first result is seen here: the search must not be over by then.
    driver = start(command, SHOEBOX_TOY_SECONDS="3")
    try:
        wait_for_trained(1)
        # As a terminal does it for Ctrl-C: to the whole group.
        if number == signal.SIGINT:
            os.killpg(driver.pid, number)
        else:
            os.kill(driver.pid, number)
        _, errors = driver.communicate(timeout=60)
    finally:
        driver.kill()
    assert driver.returncode == 130, errors
    assert f"Resume with: shoebox search {toy_file} --resume" in errors
    assert "Traceback" not in errors
    assert "running" not in states()
    stopped = find_study(open_storage(default_url()), "toy")
    assert stopped is not None
    assert stopped.user_attrs[SEARCHED] > 3  # as long as the first training took
    done = run([*command, "--resume"])
    assert done.returncode == 0, done.stderr
    assert states().count("finished") == 12
    assert set(states()) <= {"finished", "infeasible", "orphaned"}


@pytest.mark.usefixtures("toy")
def test_a_file_that_an_option_makes_whole_is_resumed_without_it(
    make_engine: Callable[..., Any], shoebox: Shoebox, toy_file: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(toy_file.read_text())
    del content["task"]["data"]
    toy_file.write_text(yaml.safe_dump(content))
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("sentence,label\na good film,1\na bad film,0\n")
    done = shoebox("search", str(toy_file))
    assert (done.returncode, "task.data is missing" in done.stderr) == (2, True)
    engine = make_engine(data=str(tmp_path), trials=2, sampler="random")
    engine.study.set_user_attr(OVERRIDES, {"data": str(tmp_path), "trials": 2, "sampler": "random"})
    engine.run()
    done = shoebox("search", str(toy_file), "--resume")
    assert done.returncode == 0, done.stderr
    assert len(load_study("toy").trials("finished")) == 2


@pytest.mark.usefixtures("toy")
def test_two_drivers_do_not_share_a_study(
    shoebox_command: list[str], shoebox: Shoebox, toy_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = start([*shoebox_command, "search", str(toy_file)], SHOEBOX_TOY_SECONDS="2")
    try:
        wait_for_trained(1)
        storage = default_url()
        for home in ("home", "other"):
            monkeypatch.setenv("SHOEBOX_HOME", str(tmp_path / home))
            second = shoebox("search", str(toy_file), "--resume", "--storage", storage)
            assert second.returncode == 2
            assert "is being searched by another process right now" in second.stderr
        _, errors = driver.communicate(timeout=120)
        assert driver.returncode == 0, errors
    finally:
        driver.kill()


def test_every_trial_failed(shoebox_command: list[str], toy_file: Path) -> None:
    every = ",".join(map(str, range(50)))
    done = run([*shoebox_command, "search", str(toy_file), "--trials", "2"], SHOEBOX_TOY_FAIL=every)
    assert done.returncode == 1
    assert "all 2 trials failed; trial" in done.stderr.splitlines()[-1]
    assert done.stderr.endswith("RuntimeError: the toy was told to fail\n")


def test_full_disk_ends_the_search_and_a_resume_goes_on(shoebox_command: list[str], toy_file: Path) -> None:
    toy_file.write_text(toy_file.read_text().replace("deployed_bytes: 600000", "deployed_bytes: 20000000"))
    command = [*shoebox_command, "search", str(toy_file), "--trials", "4"]
    done = run(command, SHOEBOX_TOY_FULL="1")
    assert done.returncode == 2, done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"shoebox: Folder .*00001 cannot be written: the disk is full\. .* --resume\.", sentence)
    assert set(states()) <= {"finished", "orphaned", "waiting"}
    done = run([*command, "--resume"])
    assert done.returncode == 0, done.stderr
    assert states().count("finished") == 4
    assert set(states()) == {"finished", "orphaned"}


def test_workers_share_the_cores_and_are_reused(
    toy_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from search import run_study

    study = run_study(toy_file, overrides={"trials": 3, "workers": 1, "seed": 4}, pipeline="toy_pipeline")
    assert len(study.trials("finished")) == 3
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    proposals: list[Any] = [trial.params for trial in study.trials()]
    assert len({json.dumps(params, sort_keys=True) for params in proposals}) == len(proposals)


def test_data_named_from_one_folder_is_found_from_another(
    toy_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search import run_study

    (tmp_path / "reviews").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "reviews" / f"{split}.csv").write_text("sentence,label\nfine,1\npoor,0\n")
    monkeypatch.chdir(tmp_path)
    run_study(toy_file, overrides={"trials": 1, "workers": 1, "data": "reviews"}, pipeline="toy_pipeline")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    study = run_study(toy_file, resume=True, overrides={"trials": 2}, pipeline="toy_pipeline")
    assert len(study.trials("finished")) == 2
    assert study.file.task is not None
    assert study.file.task.data.path == str(tmp_path / "reviews")


def test_a_study_whose_data_changed_is_not_resumed(toy_file: Path, tmp_path: Path) -> None:
    from search import run_study

    def write(folder: Path, validation: str = "fine,1\npoor,0\n") -> None:
        folder.mkdir(exist_ok=True)
        (folder / "train.csv").write_text("sentence,label\nfine,1\npoor,0\n")
        (folder / "validation.csv").write_text(f"sentence,label\n{validation}")

    def go_on() -> Any:
        return run_study(toy_file, resume=True, overrides={"trials": 2}, pipeline="toy_pipeline")

    first = tmp_path / "first"
    texts = {f"{section}.{name}": tmp_path / f"{section}.{name}.txt" for section, name in TEXTS}
    for file in texts.values():
        file.write_text("a film\n")
    sections: dict[str, Any] = {"transfer": {}, "pretraining": {"max_length": 128}}
    for section, name in TEXTS:
        sections[section][name] = {"path": str(texts[f"{section}.{name}"])}
    recipe = {"transfer_share": [0.3], "initialization": ["random", "pretrained"]}
    content = yaml.safe_load(toy_file.read_text())
    content["teacher"]["intermediate"] = {"data": {"path": str(first)}}
    toy_file.write_text(yaml.safe_dump({**content, **sections, "space": {"recipe": recipe}}))
    write(tmp_path)
    write(first)
    run_study(toy_file, overrides={"trials": 1, "workers": 1, "data": str(tmp_path)}, pipeline="toy_pipeline")
    for folder, section in ((tmp_path, r"task\.data"), (first, r"teacher\.intermediate\.data")):
        write(folder, "fine,1\nbad,0\n")
        with pytest.raises(InputError, match=rf"data of study 'toy' .*: {section} changed since"):
            go_on()
        write(folder)
    for section, file in texts.items():
        file.write_text("another film\n")
        with pytest.raises(InputError, match=rf": {re.escape(section)} changed since"):
            go_on()
        file.write_text("a film\n")
    stored = optuna.load_study(study_name="toy", storage=open_storage(default_url()))
    kept = stored.user_attrs[DATA]
    assert set(kept) == {"task.data", "teacher.intermediate.data", *texts}
    stored.set_user_attr(DATA, {"task.data": kept["task.data"]})  # of an older version
    assert len(go_on().trials("finished")) == 2
    assert optuna.load_study(study_name="toy", storage=open_storage(default_url())).user_attrs[DATA] == kept


def test_a_handler_of_signals_outlives_ray() -> None:
    """Ray leaves the system's own handler of SIGTERM behind, which would end the process without cleaning up."""
    program = """
import os, signal
from search.local_ray import local_ray
signal.signal(signal.SIGTERM, signal.default_int_handler)
with local_ray(1, 1):
    pass
try:
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""
    done = run([sys.executable, "-c", program], seconds=120)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_a_study_that_is_there_is_told_in_both_languages(make_engine: Callable[..., Any], toy_file: Path) -> None:
    make_engine(trials=1).run()
    from search import run_study

    both = r"--resume \(in Python: resume=True\), .* --name NAME \(in Python: overrides={'name': NAME}\)"
    with pytest.raises(InputError, match=both):
        run_study(toy_file, pipeline="toy_pipeline")
    with pytest.raises(InputError, match=r"Leave out --resume \(in Python: resume=True\)"):
        run_study(toy_file, resume=True, overrides={"name": "other"}, pipeline="toy_pipeline")
