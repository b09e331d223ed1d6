"""Judging a finished front by ARM kernels, beside what may go wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runners.latency import DeviceSpec
from runners.record import ArmQuality
from search.arm_check import check_front_on_arm
from search.query import select
from search.report import as_markdown, gather
from search.run import run_study
from search.storage import default_url
from search.study import TIMED_ON, load_study
from space.errors import InputError

MEASURED = ArmQuality(
    device="cortex-a53",
    examples=10,
    quality=0.5,
    quality_here=0.6,
    agreement=0.9,
    largest_difference=0.1,
    median_difference=0.01,
    versions={},
)


def test_a_trial_that_cannot_be_judged_does_not_keep_the_others_from_it(make_engine, monkeypatch, caplog) -> None:
    engine = make_engine(trials=6)
    engine.run()
    front = load_study("toy").pareto()
    assert len(front) > 1
    asked = []

    def measure(bundle: Path, tasks: object, device: DeviceSpec, record: object) -> ArmQuality:
        asked.append(bundle)
        if len(asked) == 1:
            raise RuntimeError("the model is damaged")  # as onnxruntime's errors: no InputError
        return MEASURED

    monkeypatch.setattr("search.arm_check.measure_arm_quality", measure)
    device = DeviceSpec(latency="emulated")
    check_front_on_arm(engine.study, default_url(), None, device)
    assert "the model is damaged" in caplog.text
    assert [record.on_arm for record in load_study("toy").pareto()] == [None] + [MEASURED] * (len(front) - 1)

    check_front_on_arm(engine.study, default_url(), None, device)  # only what is missing
    assert len(asked) == len(front) + 1
    assert all(record.on_arm == MEASURED for record in load_study("toy").pareto())
    told = [json.loads((Path(record.bundle) / "metrics.json").read_text()) for record in load_study("toy").pareto()]
    assert [each["on_arm"]["quality"] for each in told] == [MEASURED.quality] * len(front)

    rows = select("toy").front().rows()
    assert {(row["quality_on_arm"], row["quality_here"], row["arm_examples"]) for row in rows} == {(0.5, 0.6, 10)}
    beside = "0.5000 (0.6000 here, 10 texts)"
    assert as_markdown(gather(load_study("toy"))).count(beside) == len(front)


def test_what_cannot_be_written_into_a_bundle_stays_in_the_study(make_engine, monkeypatch, caplog) -> None:
    engine = make_engine(trials=2)
    engine.run()
    monkeypatch.setattr("search.arm_check.measure_arm_quality", lambda *given: MEASURED)
    for record in load_study("toy").pareto():
        (Path(record.bundle) / ".metrics.json.part").mkdir()  # where the file would be written first
    check_front_on_arm(engine.study, default_url(), None, DeviceSpec(latency="emulated"))
    assert "does not tell its quality on ARM" in caplog.text
    assert all(record.on_arm == MEASURED for record in load_study("toy").pareto())


@pytest.mark.parametrize("device", [DeviceSpec(latency="estimated"), DeviceSpec(check_examples=0)])
def test_nothing_is_judged_where_nothing_is_emulated_or_wanted(make_engine, monkeypatch, device) -> None:
    engine = make_engine(trials=2)
    engine.run()
    monkeypatch.setattr("search.arm_check.measure_arm_quality", lambda *given: pytest.fail("was judged"))
    check_front_on_arm(engine.study, default_url(), None, device)


@pytest.mark.usefixtures("toy")
def test_a_device_that_was_changed_is_not_resumed_on(make_engine, toy_file) -> None:
    engine = make_engine(trials=2)
    engine.run()
    engine.study.set_user_attr(TIMED_ON, "another profile")
    with pytest.raises(InputError, match="says something else than when study 'toy' was started"):
        run_study(str(toy_file), overrides={"trials": 2}, resume=True)
