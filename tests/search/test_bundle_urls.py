"""What asks for the bundles of a study that keeps them at a URL."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.bundles import write_bundle

from runners.bundle_store import publish
from search.doctor_study import examine_study
from search.exchange import export_study, import_study
from search.report import gather
from search.resuming import check_no_bundles, check_place, claim_bundles
from search.states import RECORD
from search.study import Study, load_study
from space.errors import InputError
from space.paths import cache

Shoebox = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def make_study(make_engine: Callable[..., Any], toy_file: Path, tmp_path: Path) -> Callable[[str], Study]:
    """A study of three trials whose records say that their bundles are below a URL; at files they are there."""

    def make(url: str) -> Study:
        toy_file.write_text(toy_file.read_text().replace("tokens: 32", "tokens: 16"))  # what the student can read
        engine = make_engine(trials=3, sampler="random", more={"bundles": url})
        student = write_bundle(tmp_path / "student", "texts")
        while not engine.ledger.exhausted:
            assignment = engine.ledger.next()
            engine.work(assignment)
            storage = engine.study._storage
            record = storage.get_trial(assignment.trial_id).user_attrs.get(RECORD)
            if record is not None:
                place = f"{engine.file.bundles}/{assignment.bundle.name}"
                if url.startswith("file:"):
                    publish(student, place)
                storage.set_trial_user_attr(assignment.trial_id, RECORD, {**record, "bundle": place})
            engine.ledger.settle(assignment.number)
        return load_study("toy")

    return make


def bundles_found() -> tuple[str, str]:
    [finding] = [found for found in examine_study("toy", None) if found.subject == "study: bundles"]
    return finding.state, finding.text


def test_bundles_at_a_url_are_found(
    make_study: Callable[[str], Study], shoebox: Shoebox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/store"
    study = make_study(url)
    front = [record.trial for record in study.pareto()]
    finished = tuple(record.trial for record in study.records())
    assert bundles_found() == ("ok", f"all {len(front)} of the front, in {url}/toy")
    assert not (cache() / "bundles").exists()  # to ask copies nothing

    asked = shoebox("pareto", "toy", "--all", "--device", "cortex-a76", "--json")
    assert asked.returncode == 0, asked.stderr
    assert {row["device"] for row in json.loads(asked.stdout)["trials"]} == {"cortex-a76"}
    report = gather(study)
    assert list(report.cards) == front
    assert set(report.bytes_of) == set(report.milliseconds_of) == set(front)
    exported = export_study("toy", tmp_path / "toy.zip", "all")
    assert (exported.bundles, exported.gone) == (finished, ())
    monkeypatch.setenv("SHOEBOX_HOME", str(tmp_path / "other"))
    assert import_study(tmp_path / "toy.zip").bundles == finished
    model = (tmp_path / "student" / "model.onnx").read_bytes()
    assert (Path(load_study("toy").best().bundle) / "model.onnx").read_bytes() == model


def test_bundles_that_are_gone_from_a_url(make_study: Callable[[str], Study], shoebox: Shoebox, tmp_path: Path) -> None:
    study = make_study(f"file://{tmp_path}/store")
    best = study.best().trial
    shutil.rmtree(tmp_path / "store" / "toy" / f"{best:05d}")
    state, text = bundles_found()
    assert (state, f"gone: trials {best}" in text) == ("note", True)
    asked = json.loads(shoebox("pareto", "toy", "--all", "--device", "cortex-a76", "--json").stdout)
    assert best not in [row["trial"] for row in asked["trials"]]
    assert best not in gather(study).cards
    assert export_study("toy", tmp_path / "toy.zip", "all").gone == (best,)


@pytest.mark.parametrize(("file", "content"), [("config.json", "{"), ("vocab.txt", None), ("vocab.txt", "short")])
def test_a_damaged_bundle_does_not_keep_the_others_from_it(
    make_study: Callable[[str], Study], shoebox: Shoebox, tmp_path: Path, file: str, content: str | None
) -> None:
    study = make_study(f"file://{tmp_path}/store")
    best, finished = study.best().trial, {record.trial for record in study.records()}
    damaged = tmp_path / "store" / "toy" / f"{best:05d}" / file
    damaged.unlink() if content is None else damaged.write_text(content)
    asked = shoebox("pareto", "toy", "--all", "--device", "cortex-a76", "--json")
    assert {row["trial"] for row in json.loads(asked.stdout)["trials"]} == finished - {best}
    assert "Left out, because their bundles are gone or damaged: 1 trial" in (
        shoebox("pareto", "toy", "--all", "--device", "cortex-a76").stdout
    )
    assert set(gather(study).bytes_of) == {record.trial for record in study.pareto()} - {best}
    assert export_study("toy", tmp_path / "toy.zip", "all").gone == (best,)
    told = shoebox("export", "toy", "--best", "-o", str(tmp_path / "out"))
    assert (told.returncode, "is damaged" in told.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_the_place_of_a_search_without_bundles_yet_is_taken(
    make_engine: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(more={"bundles": f"file://{tmp_path}/store"})
    check_no_bundles(engine.file)
    claim_bundles(engine.study, engine.file)
    monkeypatch.setenv("SHOEBOX_HOME", str(tmp_path / "other"))
    with pytest.raises(
        InputError, match=r"store/toy is the place for the bundles of another study named 'toy'"
    ) as told:
        check_no_bundles(engine.file)
    assert "owner.json" in str(told.value.hint)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bundles", "in the memory of each worker"),
        ("file://bundles", "another folder for each who reads it"),
        ("local://bundles/of/mine", "another folder for each who reads it"),
    ],
)
def test_places_that_nobody_else_finds_are_refused(make_engine: Callable[..., Any], url: str, message: str) -> None:
    for check in (check_place, lambda place: check_no_bundles(make_engine(more={"bundles": place}).file)):
        with pytest.raises(InputError, match=message):
            check(url)
    check_place("file://~/bundles")


def test_bundles_out_of_reach_are_not_said_to_be_gone(
    make_study: Callable[[str], Study], shoebox: Shoebox, tmp_path: Path
) -> None:
    study = make_study("nosuch://bucket/bundles")
    state, text = bundles_found()
    assert (state, "is no place for bundles" in text) == ("problem", True)
    assert "is no place for bundles" in shoebox("pareto", "toy", "--device", "cortex-a76").stderr
    assert gather(study).cards == {}
    with pytest.raises(InputError, match="is no place for bundles"):
        export_study("toy", tmp_path / "toy.zip", "all")
    assert export_study("toy", tmp_path / "toy.zip", "none").bundles == ()
