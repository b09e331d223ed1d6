"""Studies in archives: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import sqlite3
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pyarrow.parquet
import pytest
from helpers.bundles import record_of, write_bundle

from runners.bundle import read_config
from runners.record import TrialRecord
from search import direct_storage
from search.direct_storage import DirectStorage
from search.exchange import export_study, import_study
from search.exchange.archive import Manifest, write_archive
from search.exchange.content import read_contents, trials_text
from search.exchange.table import parquet
from search.resuming import check_bundles_own, check_no_bundles, check_unchanged, claim_bundles, have_moved
from search.states import FROM, state_of
from search.storage import default_url, open_storage
from search.study import load_study, study_folder
from search.warm_start import WARM_START, withdraw
from search.warm_start.agreement import JUDGED
from space.errors import InputError

Shoebox = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def engine(make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A study with trials of every state: the last one runs, one waits."""
    monkeypatch.setenv("SHOEBOX_TOY_FAIL", "2")
    engine = make_engine(trials=9, sampler="random")
    engine.run(most=6)
    engine.ledger.next()
    engine.study.enqueue_trial({"width": 128}, user_attrs={"why": "a test"})
    return engine


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Go to another home, with an empty storage."""

    def go(name: str = "other") -> None:
        monkeypatch.setenv("SHOEBOX_HOME", str(tmp_path / name))

    return go


_EXPORTED: list[bytes] = []


@pytest.fixture
def archive(request: pytest.FixtureRequest, elsewhere: Callable[..., None], tmp_path: Path) -> Path:
    """The exported study, made once, for another home."""
    path = tmp_path / "toy.zip"
    if not _EXPORTED:
        request.getfixturevalue("engine")
        export_study("toy", path, "front")
        _EXPORTED.append(path.read_bytes())
    path.write_bytes(_EXPORTED[0])
    elsewhere()
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def stored(path: Path) -> list[str]:
    """All that an SQLite file and its write-ahead log hold: which of both, depends on when connections are closed."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """An archive with other content whose checksums are right."""
    found = members(path)
    manifest = Manifest.model_validate_json(found.pop("manifest.json"))
    change(found)
    output = path.with_name("changed.zip")
    write_archive(output, manifest.study, manifest.made_with, found.items())
    return output


def test_answers_are_the_same_after_import(
    engine: Any, elsewhere: Callable[..., None], shoebox: Shoebox, tmp_path: Path, home: Path
) -> None:
    before = json.loads(shoebox("pareto", "toy", "--format", "json").stdout)
    trials = engine.study.get_trials()
    assert {trial.state.name for trial in trials} == {"COMPLETE", "FAIL", "PRUNED", "RUNNING", "WAITING"}
    done = shoebox("study", "export", "toy", "-o", str(tmp_path / "toy.zip"), "--bundles", "all")
    assert done.returncode == 0, done.stderr
    assert f"{len(trials)} trials" in done.stdout
    # The archive does not depend on where the study lies nor on who searches it; the study's files stay as they were.
    engine.study.set_user_attr("driver:0123456789ab", {"host": "secret"})
    export_study("toy", tmp_path / "again.zip", "all")
    assert (tmp_path / "toy.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()

    elsewhere()
    done = shoebox("study", "import", str(tmp_path / "toy.zip"))
    assert done.returncode == 0, done.stderr
    assert "Study 'toy' imported" in done.stdout
    after = json.loads(shoebox("pareto", "toy", "--format", "json").stdout)
    for row in before["trials"]:
        row["bundle"] = row["bundle"].replace(str(home), str(tmp_path / "other"))
    assert after == before
    assert all((Path(row["bundle"]) / "model.onnx").read_bytes().startswith(b"toy") for row in after["trials"])
    for mine, other in zip(trials, optuna.load_study(study_name="toy", storage=default_url()).trials, strict=True):
        for trial in (mine, other):  # records differ in the place of the bundle alone
            trial.user_attrs.get("record", {}).pop("bundle", None)
        mine._trial_id = other._trial_id
        assert mine == other
    export_study("toy", tmp_path / "third.zip", "all")
    assert (tmp_path / "toy.zip").read_bytes() == (tmp_path / "third.zip").read_bytes()
    assert shoebox("export", "toy", "--best", "-o", str(tmp_path / "best")).returncode == 0


def test_a_study_with_an_error_that_no_file_can_hold_is_read_and_moved(
    engine: Any, elsewhere: Callable[..., None], shoebox: Shoebox, tmp_path: Path
) -> None:
    """Workers wrote such errors once."""
    trial = engine.study.ask()
    trial.set_user_attr("deployed_bytes", 1)
    trial.set_user_attr("error", "cannot read n\u00e4chste \udcff.csv")
    engine.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    for command in (["studies"], ["pareto", "toy"], ["report", "toy", "-o", str(tmp_path / "toy.html")]):
        done = shoebox(*command)
        assert done.returncode == 0, done.stderr
    assert load_study("toy").trial(trial.number).error == "cannot read n\u00e4chste ?.csv"
    assert engine.study.get_trials()[trial.number].user_attrs["error"] == "cannot read n\u00e4chste ?.csv"
    for extension in ("zip", "parquet"):
        done = shoebox("study", "export", "toy", "-o", str(tmp_path / f"toy.{extension}"))
        assert done.returncode == 0, done.stderr
    _, trials = read_contents(*(members(tmp_path / "toy.zip")[n] for n in ("study.json", "trials.jsonl")), "it")
    trials[trial.number].attributes["error"] = "\udcff"
    again = rewrite(tmp_path / "toy.zip", lambda found: found.update({"trials.jsonl": trials_text(trials)}))
    elsewhere()
    import_study(again)
    assert load_study("toy").trial(trial.number).error == "?"


def test_a_study_with_withdrawn_trials_is_moved(engine: Any, elsewhere: Callable[..., None], tmp_path: Path) -> None:
    """What a warm start queued and took back has ended without a beginning."""
    finished = [trial for trial in engine.study.trials if trial.values is not None]
    assert len(finished) >= JUDGED
    quality = engine.study.directions.index(optuna.study.StudyDirection.MAXIMIZE)
    configurations = [
        {"study": "old", "trial": trial.number, "quality": -trial.values[quality], "params": trial.params}
        for trial in finished
    ]
    engine.study.set_user_attr(WARM_START, {"sources": [], "configurations": configurations, "knowledge": []})
    engine.study.enqueue_trial(finished[0].params, user_attrs={FROM: {"study": "old", "trial": 0, "place": 0}})
    assert withdraw(engine.study) == 1
    before = engine.study.trials[-1]
    assert (state_of(before), before.datetime_start) == ("orphaned", None)
    export_study("toy", tmp_path / "toy.zip", "none")
    elsewhere()
    import_study(tmp_path / "toy.zip")
    after = optuna.load_study(study_name="toy", storage=default_url()).trials[-1]
    assert (state_of(after), after.datetime_start) == ("orphaned", None)
    assert after.datetime_complete == before.datetime_complete
    export_study("toy", tmp_path / "again.zip", "none")
    assert (tmp_path / "toy.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()


def test_imported_study_goes_on_as_the_original_does(
    engine: Any, make_engine: Callable[..., Any], elsewhere: Callable[..., None], tmp_path: Path
) -> None:
    export_study("toy", tmp_path / "toy.zip", "none")
    proposals = []
    for place in ("home", "other"):
        if place == "other":
            elsewhere()
            import_study(tmp_path / "toy.zip")
        other = make_engine(trials=9, sampler="random")
        other.ledger.recover()
        other.run()
        assert load_study("toy").hypervolume() > 0
        proposals.append(other.proposals())
    assert proposals[0] == proposals[1]


def test_imported_study_does_not_touch_the_bundles_that_the_original_keeps_at_a_url(
    make_engine: Callable[..., Any], elsewhere: Callable[..., None], tmp_path: Path
) -> None:
    original = make_engine(more={"bundles": f"file://{tmp_path}/store"})
    original.run(2)
    check_bundles_own(original.study, original.file)
    claim_bundles(original.study, original.file)
    check_bundles_own(original.study, original.file)
    export_study("toy", tmp_path / "toy.zip", "none")
    elsewhere()
    import_study(tmp_path / "toy.zip")
    imported = make_engine(more={"bundles": f"file://{tmp_path}/store"})
    with pytest.raises(InputError, match="store/toy holds bundles of another study named 'toy'") as caught:
        check_bundles_own(imported.study, imported.file)
    assert "--bundles URL" in str(caught.value.hint)
    own = make_engine(more={"bundles": f"file://{tmp_path}/own"})
    check_bundles_own(own.study, own.file)
    check_unchanged(own.study, own.file)


def test_bundles_that_nobody_has_claimed_are_those_of_the_study_that_was_there(
    make_engine: Callable[..., Any], elsewhere: Callable[..., None], tmp_path: Path
) -> None:
    """Places had no owners once: the study goes on there; an import, or one that comes from elsewhere, does not."""
    store = {"bundles": f"file://{tmp_path}/store"}
    original = make_engine(more=store)
    original.run(2)
    (tmp_path / "store" / "toy" / "00000").mkdir(parents=True)
    check_bundles_own(original.study, original.file)
    assert not have_moved(original.study, original.file)
    export_study("toy", tmp_path / "toy.zip", "none")
    elsewhere()
    import_study(tmp_path / "toy.zip")
    with pytest.raises(InputError, match="holds bundles of another study"):
        check_bundles_own(make_engine(more=store).study, original.file)
    elsewhere("third")
    without = make_engine()
    without.run(1)
    moved = make_engine(more=store)
    assert have_moved(moved.study, moved.file)
    with pytest.raises(InputError, match="holds bundles of another study"):
        check_bundles_own(moved.study, moved.file)


def test_a_place_for_bundles_holds_no_password(make_engine: Callable[..., Any]) -> None:
    for url in ("ftp://u:hunter2@host/x", "sftp://u:hun@ter2@host/x"):
        engine = make_engine(more={"bundles": url})
        with pytest.raises(InputError, match="should hold no password") as caught:
            check_no_bundles(engine.file)
        assert "ter2" not in str(caught.value)
    assert make_engine(more={"bundles": "sftp://host:22/home/ann@corp/x"}).file.bundles  # nor has this one


def test_a_bundle_that_is_removed_meanwhile_is_gone(
    engine: Any, elsewhere: Callable[..., None], shoebox: Shoebox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a search that keeps the bundles of the front removes it."""
    first, *others = sorted(trial.number for trial in load_study("toy").trials("finished"))

    def removed_meanwhile(*arguments: Any) -> bytes:
        engine.ledger.folders.remove(engine.ledger.folders.bundle(first))
        return parquet(*arguments)

    monkeypatch.setattr("search.exchange.send.parquet", removed_meanwhile)
    done = shoebox("study", "export", "toy", "-o", str(tmp_path / "toy.zip"), "--bundles", "all")
    assert done.returncode == 0, done.stderr
    assert f"those of trials {first}." in done.stdout
    elsewhere()
    assert import_study(tmp_path / "toy.zip").bundles == tuple(others)


def test_importing_again_changes_nothing(
    engine: Any, elsewhere: Callable[..., None], shoebox: Shoebox, tmp_path: Path
) -> None:
    archive, whole = str(tmp_path / "toy.zip"), str(tmp_path / "whole.zip")
    export_study("toy", Path(archive), "none")
    export_study("toy", Path(whole), "all")
    assert "is here already. Nothing was changed." in shoebox("study", "import", archive).stdout
    elsewhere()
    shoebox("study", "import", archive)
    before = stored(tmp_path / "other" / "studies.db")
    assert "is here already. Nothing was changed." in shoebox("study", "import", archive).stdout
    assert "is here already. Bundles added: 5." in shoebox("study", "import", whole).stdout
    assert stored(tmp_path / "other" / "studies.db") == before
    other = optuna.load_study(study_name="toy", storage=open_storage(default_url()))
    other.add_trial(optuna.trial.create_trial(values=[0.5, 1.0]))
    assert "already and has 1 further trial. Nothing was changed." in shoebox("study", "import", archive).stdout


def test_an_earlier_state_of_a_study_is_told_from_another_study(
    make_engine: Callable[..., Any], elsewhere: Callable[..., None], shoebox: Shoebox, tmp_path: Path
) -> None:
    names = ("unsearched", "first", "further", "ended")
    before = make_engine(name="grown", trials=9, sampler="random")
    export_study("grown", tmp_path / "unsearched.zip")
    before.run(most=3)
    running = before.ledger.next()
    export_study("grown", tmp_path / "first.zip")
    before.run(most=2)
    export_study("grown", tmp_path / "further.zip")
    before.work(running)  # no trial more, but one that has ended
    before.ledger.settle(running.number)
    export_study("grown", tmp_path / "ended.zip")
    for earlier, later in itertools.combinations(names, 2):
        elsewhere(f"{earlier}-{later}")
        import_study(tmp_path / f"{earlier}.zip")
        done = shoebox("study", "import", str(tmp_path / f"{later}.zip"))
        assert done.returncode == 2
        assert "a later state of study 'grown'" in done.stderr
        assert "--name NAME" in done.stderr
        assert shoebox("study", "import", str(tmp_path / f"{later}.zip"), "--name", "later").returncode == 0
        # The other way round nothing is wrong.
        elsewhere(f"{later}-{earlier}")
        import_study(tmp_path / f"{later}.zip")
        assert "is here already" in shoebox("study", "import", str(tmp_path / f"{earlier}.zip")).stdout


def test_another_study_of_that_name_is_refused(
    engine: Any, make_engine: Callable[..., Any], elsewhere: Callable[..., None], shoebox: Shoebox, tmp_path: Path
) -> None:
    export_study("toy", tmp_path / "toy.zip")
    elsewhere()
    make_engine(seed=1).run(most=7)
    done = shoebox("study", "import", str(tmp_path / "toy.zip"))
    assert done.returncode == 2
    assert "There is another study 'toy'" in done.stderr
    assert shoebox("study", "import", str(tmp_path / "toy.zip"), "--name", "of-ann").returncode == 0
    assert load_study("of-ann").file.name == "of-ann"
    assert shoebox("pareto", "of-ann").returncode == 0
    assert shoebox("study", "import", str(tmp_path / "toy.zip"), "--name", "../up").returncode == 2


def test_every_flipped_byte_is_refused(archive: Path, tmp_path: Path) -> None:
    other, whole = tmp_path / "flipped.zip", archive.read_bytes()
    with zipfile.ZipFile(archive) as zipped:
        offsets = {info.filename: info.header_offset + 30 + len(info.filename) for info in zipped.infolist()}
    for name, offset in offsets.items():
        data = bytearray(whole)
        data[offset + 1] ^= 4
        other.write_bytes(data)
        with pytest.raises(InputError, match=f"flipped.zip is damaged or was changed: {name}"):
            import_study(other)
    # Elsewhere than in content: names, times, the directory, the seal.
    for offset in [*range(0, 30), *range(len(whole) - 400, len(whole), 3), *range(0, len(whole), len(whole) // 60)]:
        data = bytearray(whole)
        data[offset] ^= 1
        other.write_bytes(data)
        with pytest.raises(InputError):
            import_study(other)
    assert not (tmp_path / "other").exists()


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("trials/00000/zeros.txt", bytes(1 << 24))


def up(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr("trials/00000/../../../../evil", b"evil")


def absolute(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr("/tmp/evil", b"evil")


def stowaway(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr("trials/00000/more.txt", b"more")


@pytest.mark.parametrize(
    ("add", "why"),
    [
        (bomb, "would grow more than"),
        (up, "no member of the name"),
        (absolute, "no member of the name"),
        (stowaway, "manifest does not name it"),
    ],
)
def test_what_an_export_never_holds_is_refused(
    archive: Path, tmp_path: Path, add: Callable[[Path], None], why: str
) -> None:
    add(archive)
    with pytest.raises(InputError, match=why):
        import_study(archive)
    assert not (tmp_path / "other").exists()


def other_place(found: dict[str, bytes]) -> None:
    found["trials.jsonl"] = found["trials.jsonl"].replace(b'"bundle": "trials/00000"', b'"bundle": "/etc"')


def lost_trial(found: dict[str, bytes]) -> None:
    found["trials.jsonl"] = b"".join(found["trials.jsonl"].splitlines(keepends=True)[1:])


def no_beginning(found: dict[str, bytes]) -> None:
    lines = [json.loads(line) for line in found["trials.jsonl"].splitlines()]
    lines[0]["started"] = None
    found["trials.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def new_field(found: dict[str, bytes]) -> None:
    content = json.loads(found["study.json"])
    content["attributes"]["study_file"]["cloud"] = 1
    found["study.json"] = json.dumps(content).encode()


def in_trial(key: str, change: Callable[[Any], Any]) -> Callable[[dict[str, bytes]], None]:
    """Change what the first trial with a record has of a key."""

    def changed(found: dict[str, bytes]) -> None:
        trials = [json.loads(line) for line in found["trials.jsonl"].splitlines()]
        trial = next(trial for trial in trials if "record" in trial["attributes"])
        trial[key] = change(trial[key])
        found["trials.jsonl"] = b"".join(json.dumps(trial).encode() + b"\n" for trial in trials)

    return changed


def in_record(**fields: Any) -> Callable[[dict[str, bytes]], None]:
    return in_trial("attributes", lambda attributes: {**attributes, "record": {**attributes["record"], **fields}})


def in_system(**values: Any) -> Callable[[dict[str, bytes]], None]:
    return in_trial("system_attributes", lambda attributes: {**attributes, **values})


def two_kinds(found: dict[str, bytes]) -> None:
    content = json.loads(found["study.json"])
    other = {"name": "FloatDistribution", "attributes": {"low": 0.0, "high": 1e6, "step": None, "log": False}}
    content["distributions"].append(other)
    found["study.json"] = json.dumps(content).encode()
    trials = [json.loads(line) for line in found["trials.jsonl"].splitlines()]
    last = [trial for trial in trials if "width" in trial["params"]][-1]
    last["distributions"]["width"] = len(content["distributions"]) - 1
    found["trials.jsonl"] = b"".join(json.dumps(trial).encode() + b"\n" for trial in trials)


def list_on_arm(found: dict[str, bytes]) -> None:
    content = json.loads(found["study.json"])
    content["attributes"]["on_arm"] = [1]
    found["study.json"] = json.dumps(content).encode()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (two_kinds, r"changed.zip: trial \d+: parameter 'width': Cannot set different .* name\. Another"),
        (list_on_arm, r"study.json: attributes.on_arm: Input should be a valid dict"),
        (in_trial("values", lambda values: values[:1]), r"trial \d+: values: 1 for 2 objectives"),
        (in_trial("intermediate", lambda steps: {2**70: 1.0}), r"trials.jsonl, line \d+: intermediate.1180591620717"),
        (in_trial("distributions", lambda places: dict.fromkeys(places, -1)), r"line \d+: distributions\.\w+"),
        (in_system(constraints="x"), r"trial \d+: system_attributes.constraints: Input should be a valid list"),
        (in_system(**{"constraints:ms": "0"}), r"trial \d+: system_attributes.constraints:ms: Input should be"),
        (in_trial("params", lambda params: {**params, "width": 10**400}), r"Trial \d+ .* contradicts itself"),
        (in_record(seconds=None), r"trial \d+: attributes.record.seconds: Input should be"),
        (in_record(cloud=1), r"trial \d+: attributes.record.cloud: Extra inputs are not permitted"),
        (in_trial("attributes", lambda attributes: {**attributes, "record": [1]}), r"trial \d+: attributes.record"),
        (other_place, "bundle is '/etc'"),
        (lost_trial, "line 1: holds trial 1, not 0"),
        (no_beginning, r"Trial 0 .* when the trial state is not waiting\.$"),
        (new_field, "another version of Shoebox"),
    ],
)
def test_content_is_checked_though_its_checksums_are_right(
    archive: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], why: str
) -> None:
    changed = rewrite(archive, change)
    with pytest.raises(InputError, match=why):
        import_study(changed)
    assert not (tmp_path / "other").exists()


def test_archive_of_a_later_format_is_refused(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("search.exchange.archive.FORMAT", 2)
        path = rewrite(archive, lambda found: None)
    with pytest.raises(InputError, match="is an archive of format 2; this version of Shoebox reads format 1"):
        import_study(path)


def killed_import(path: Path, step: int) -> int:
    """Import in a process that dies at a step of it; answers how that ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = 0

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count > step:
                os._exit(9)
            return original(*arguments, **named)

        return call

    direct_storage.TOGETHER = 1  # in this process alone
    for owner, name in ((DirectStorage, "_add_next"), (optuna.Study, "set_user_attr"), (Path, "rename")):
        setattr(owner, name, dying(getattr(owner, name)))
    try:
        import_study(path)
    finally:
        os._exit(0)


def test_killed_import_leaves_no_study_and_is_done_again(
    engine: Any, elsewhere: Callable[..., None], shoebox: Shoebox, tmp_path: Path
) -> None:
    path = tmp_path / "toy.zip"
    export_study("toy", path, "front")
    front = [record.trial for record in load_study("toy").pareto()]
    last = 1 + len(engine.study.trials) + 2 + 1  # an attribute, trials, attributes, the folder; then the study file
    for step in (5, last):
        elsewhere(f"killed{step}")
        assert killed_import(path, step) == 9
        assert "There is no study 'toy'" in shoebox("pareto", "toy").stderr
        assert "Study 'toy' imported" in shoebox("study", "import", str(path)).stdout
        assert [record.trial for record in load_study("toy").pareto()] == front
        assert sorted(os.listdir(load_study("toy").folder)) == ["driver.lock", "trials"]
    elsewhere("whole")
    assert killed_import(path, last + 1) == 0
    assert [record.trial for record in load_study("toy").pareto()] == front


def test_every_storage_takes_the_same_trials(
    archive: Path, tmp_path: Path, elsewhere: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours in few transactions; those that write as Optuna does, one trial after the other."""
    import_study(archive, "toy")
    elsewhere("third")
    monkeypatch.setattr("search.storage.OLDEST_SQLITE", (99,))
    import_study(archive, "toy")
    assert not isinstance(open_storage(default_url()), DirectStorage)
    one, other = (
        [line.replace(str(tmp_path / home), "") for line in stored(tmp_path / home / "studies.db")]
        for home in ("other", "third")
    )
    assert one == other


def test_table_for_pandas(engine: Any, tmp_path: Path) -> None:
    export_study("toy", tmp_path / "toy.zip", "none")
    rows = pyarrow.parquet.read_table(io.BytesIO(members(tmp_path / "toy.zip")["trials.parquet"])).to_pylist()
    trials = engine.study.get_trials()
    assert [row["state"] for row in rows] == [trial.state.name for trial in trials]
    assert rows[0]["values.quality"] == trials[0].values[0] == rows[0]["quality"]
    assert rows[0]["params.recipe.learning_rate"] == trials[0].params["recipe.learning_rate"]
    assert "told to fail" in rows[2]["error"]


def test_output_is_never_written_over(engine: Any, shoebox: Shoebox, tmp_path: Path) -> None:
    (tmp_path / "toy.zip").write_text("mine")
    assert "exists already" in shoebox("study", "export", "toy", "-o", str(tmp_path / "toy.zip")).stderr
    assert (tmp_path / "toy.zip").read_text() == "mine"
    done = shoebox("study", "export", "toy", "-o", str(tmp_path / "no" / "toy.zip"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert os.listdir(tmp_path / "home" / "studies" / "toy") == ["trials"]


def test_a_student_is_rounded_for_the_study_that_it_was_imported_into(
    shoebox: Shoebox, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bundle names the study that made it; here, another one goes by that name, or none."""

    def requantize(source: Path, target: Path, tasks: Any, device: Any, *more: Any) -> TrialRecord:
        return record_of(source, "texts", read_config(source))

    monkeypatch.setattr("runners.requantize.requantize", requantize)
    monkeypatch.setattr("runners.task.load_task", lambda task: None)
    monkeypatch.setattr("search.cli.quantize_command._print", lambda *given: None)
    import_study(archive, "q2")
    bundle = write_bundle(study_folder("q2") / "trials" / "00099", "texts", study="toy")
    copy = write_bundle(tmp_path / "copy", "texts", study="toy")

    def quantize(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
        return shoebox("quantize", str(folder), "-o", str(tmp_path / "out"), "--bits", "2", *more)

    assert "Judged by study q2." in quantize(bundle).stdout
    assert "Judged by study q2." in quantize(copy, "--study", "q2").stdout
    lost = quantize(copy)
    assert (lost.returncode, "There is no study 'toy'" in lost.stderr) == (2, True)
    import_study(archive)
    assert "Judged by study q2." in quantize(bundle).stdout
    assert "Judged by study toy." in quantize(copy).stdout
