from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from helpers.models import EncoderShape, write_encoder

from objectives.latency import DeviceProfile, known_profiles, load_profile, milliseconds
from objectives.latency.calibration import CalibratedRun, Calibration, Fitted
from objectives.latency.profile import parse_profile, read_profile
from runners.emulator import Installation, run_models
from runners.emulator.calibrate import calibrate_device, describe, profile_text, read_measurements
from runners.latency import DeviceSpec, LatencyMeter
from space.errors import InputError

SHAPE = EncoderShape(layers=1, hidden=64, feed_forward=128, vocabulary=500, embedding=32)
SHAPES = [SHAPE, replace(SHAPE, bits=8), replace(SHAPE, layers=3, bits=2), replace(SHAPE, hidden=128, bits=32)]


def with_figures(profile: DeviceProfile, **figures: float) -> DeviceProfile:
    content = profile.model_dump()
    for key, value in figures.items():
        content["pipeline" if key == "overhead" else "memory"][key] = {"value": value, "source": "made up"}
    return DeviceProfile.model_validate(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three models to name in measurements; what is in them is not looked at before the measurements are right."""
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.onnx").write_bytes(b"")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"")
    return tmp_path


def test_reads_measurements(folder: Path) -> None:
    (folder / "measured.csv").write_text(
        "\ufeffnote,model,tokens,milliseconds,repeats\n"
        'warm,one.onnx,16,1.5,20\n"cold, no fan",bundle,32,"2.25",\nwarm,two.onnx,128,1e1,5\n',
        encoding="utf-8",
    )
    one, two, three = read_measurements(folder / "measured.csv")
    assert (one.name, one.model, one.tokens, one.milliseconds, one.repeats) == (
        "one.onnx",
        folder / "one.onnx",
        16,
        1.5,
        20,
    )
    assert (two.model, two.milliseconds, two.repeats) == (folder / "bundle" / "model.onnx", 2.25, 1)
    assert (three.tokens, three.milliseconds) == (128, 10)


GOOD = "model,tokens,milliseconds\none.onnx,16,1.5\ntwo.onnx,16,2.5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"measured\.csv has no column 'model' in its first line"),
        ("model,tokens,ms\none.onnx,16,1.5\n", r"has no column 'milliseconds' in its first line"),
        ("model,tokens,milliseconds\n", r"holds 0 different measurements; a calibration needs at least 3"),
        (GOOD + "one.onnx,16,1.6\n", r"holds 2 different measurements; a calibration needs at least 3"),
        (GOOD + "gone.onnx,16,1.5\n", r"line 4, column 'model': there is no file .*gone\.onnx"),
        (GOOD + "~nosuchuser/a.onnx,16,1.5\n", r"line 4, column 'model': .*no home folder"),
        (GOOD + "three.onnx,16,1e-4\n", r"line 4, column 'milliseconds': found '1e-4'\. Give .* from 0\.001 to"),
        (GOOD + "three.onnx,16,2e6\n", r"line 4, column 'milliseconds': found '2e6'"),
        (GOOD + ",16,1.5\n", r"line 4, column 'model': the cell is empty"),
        (GOOD + "three.onnx,16\n", r"line 4, column 'milliseconds': the cell is empty"),
        (GOOD + "three.onnx,16,fast\n", r"line 4, column 'milliseconds': found 'fast'\. Give a number above 0"),
        (GOOD + "three.onnx,16,-2\n", r"line 4, column 'milliseconds': found '-2'"),
        (GOOD + "three.onnx,16,nan\n", r"line 4, column 'milliseconds': found 'nan'"),
        (GOOD + "three.onnx,0,2\n", r"line 4, column 'tokens': found '0'"),
        (GOOD + "three.onnx,16.5,2\n", r"line 4, column 'tokens': found '16\.5'\. Give a whole number"),
        (GOOD + "three.onnx,9999,2\n", r"line 4, column 'tokens': found '9999'"),
        (GOOD + "three.onnx,16,2,3\n", r"line 4: there are more cells than columns"),
        (GOOD + 'three.onnx,16,"2"x\n', r"measured\.csv is not CSV"),
        ("model,tokens,milliseconds,repeats\none.onnx,16,1.5,no\n", r"line 2, column 'repeats': found 'no'"),
    ],
)
def test_wrong_measurements_say_where(folder: Path, text: str, message: str) -> None:
    (folder / "measured.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_measurements(folder / "measured.csv")


def test_measurements_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot read .*gone\.csv: No such file"):
        read_measurements(folder / "gone.csv")
    (folder / "bytes.csv").write_bytes(b"\xff\xfe\x00model")
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_measurements(folder / "bytes.csv")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("mine.txt", r"a \.yaml file, .*mine\.txt is not"),
        ("taken.yaml", r"taken\.yaml exists already"),
        ("gone/mine.yaml", r"There is no folder .*gone"),
    ],
)
def test_outputs_that_cannot_be_made(folder: Path, output: str, message: str) -> None:
    (folder / "measured.csv").write_text(GOOD + "three.onnx,16,3\n")
    (folder / "taken.yaml").write_text("mine")
    with pytest.raises(InputError, match=message):
        calibrate_device(folder / "measured.csv", "cortex-a53", folder / output, print)
    assert (folder / "taken.yaml").read_text() == "mine"


@pytest.mark.parametrize("name", known_profiles())
def test_a_fitted_profile_keeps_the_text_that_it_was_fitted_from(name: str) -> None:
    text = read_profile(name)
    changed = with_figures(load_profile(name), memory_cycles=200.0, overhead=1.25)
    fitted = changed.model_copy(update={"name": "mine", "calibrated": True})
    written = profile_text(text, fitted)
    assert parse_profile(written, "mine") == fitted
    kept = set(written.splitlines())
    lost = [line for line in text.splitlines() if line not in kept]
    assert [line.split(":")[0].strip() for line in lost if line] == ["name", "calibrated", "memory_cycles"]


def test_profiles_that_are_written_in_other_ways() -> None:
    """Without `calibrated`, in block and in flow style, and with anchors, which cannot be changed piece by piece."""
    data = load_profile("cortex-a76").model_dump(mode="json", exclude_none=True)
    del data["calibrated"]
    block = "# mine\n" + yaml.safe_dump(data, sort_keys=False)
    data["memory"]["l2_cycles"] = data["memory"]["memory_cycles"]
    anchored = yaml.safe_dump(data, sort_keys=False)
    assert "*id001" in anchored
    for text in (block, yaml.safe_dump(data, default_flow_style=True), anchored):
        fitted = with_figures(parse_profile(text, "it"), hidden_share=0.25, memory_cycles=300.0, overhead=1.1)
        fitted = fitted.model_copy(update={"name": "mine", "calibrated": True})
        assert parse_profile(profile_text(text, fitted), "mine") == fitted
        assert profile_text(text, fitted).startswith("calibrated: true\n# mine") or text is not block


def test_the_report_says_what_went_to_its_bound() -> None:
    fitted = {"pipeline.overhead": Fitted(1.0, 4.0, True, True), "memory.l2_cycles": Fitted(15.0, 16.0, True, False)}
    runs = (CalibratedRun("one", 1.0, 0.5, 1.0),)
    *_, far, near = describe(Calibration(load_profile("cortex-a53"), fitted, runs))
    assert far.startswith("pipeline.overhead: 1 -> 4 (as far as a fit may go: are the milliseconds")
    assert near == "memory.l2_cycles: 15 -> 16"


def test_calibrates_what_was_measured_on_a_device(tmp_path: Path, emulator: Installation) -> None:
    """Measurements made from known figures; the emulated counts are real."""
    start = load_profile("cortex-a53")
    device = with_figures(start, overhead=1.4, memory_cycles=260.0)
    models = [write_encoder(tmp_path / f"{index}.onnx", shape) for index, shape in enumerate(SHAPES)]
    rows = [
        (model.name, tokens, milliseconds(run.counts, device))
        for tokens in (8, 32)
        for model, run in zip(models, run_models(models, tokens, start, emulator), strict=True)
    ]
    with (tmp_path / "measured.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("model", "tokens", "milliseconds"), *rows])
    lines: list[str] = []
    output = tmp_path / "My board.yaml"
    found = calibrate_device(tmp_path / "measured.csv", "cortex-a53", output, lines.append)
    assert found.residual_after[1] < 0.02 < 0.2 < found.residual_before[0]
    table = "\n".join(lines)
    assert "0.onnx, 8 tokens" in table
    assert "pipeline.overhead: 1 -> " in table

    profile = load_profile(str(output))
    assert profile == found.profile
    assert profile.name == "my-board"
    assert profile.calibrated
    assert "measured.csv" in (profile.pipeline.overhead.source or "")
    meter = LatencyMeter(DeviceSpec(profile=str(output), tokens=16))
    (reading,) = meter.measure("calibrated", lambda path: path.write_bytes(models[2].read_bytes()), [16])
    expected = milliseconds(run_models([models[2]], 16, start, emulator)[0].counts, device)
    assert reading.milliseconds == pytest.approx(expected, rel=0.03)
    assert reading.calibrated
    assert reading.device == "my-board"
