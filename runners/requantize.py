"""Another bundle from a trained one: the same weights, rounded to other bits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from runners.batches import Encoded
from runners.bundle import METRICS, MODEL, BundleConfig, deployed_size, new_folder, write_model, write_results
from runners.evaluate import open_session, run_model, run_student
from runners.judging import BEFORE, judge, overall, quality_fields
from runners.latency import DeviceSpec, LatencyMeter
from runners.predict import Bundle, load_bundle
from runners.record import RETENTION, SOURCE_QUALITY, TaskQuality, TrialRecord, library_versions
from runners.task import Examples, Task
from runners.wordpiece import encode_examples, wordpiece
from space.config import Clipping, StudentConfig
from space.errors import InputError
from space.families import Student, architecture_key, build_student, export_model, parse_config
from space.layers import QuantizedWeight
from space.paths import expanded

_OF_TEACHER = ("teacher_quality", RETENTION)
_SAME_TEXTS = 0.01  # in quality, retention being in percent: kernels of another machine answer some texts otherwise

_FEW = 2  # texts of a small split that may be answered otherwise


def requantize(
    source: Path,
    target: Path,
    tasks: Mapping[str, Task],
    device: DeviceSpec,
    bits: Mapping[str, int],
    clipping: Clipping,
) -> TrialRecord:
    """Round the weights of a bundle's checkpoint, which are kept in full precision, to other bits, without training.

    Weights whose bits stay are left as they are, and so is the recipe, which says how the student was trained.

    The record of the new bundle has three more metrics: `quality_before_quantization` (of the weights in full
    precision), `quantization_loss` (that less the quality), and `source_quality` (of the bundle that it came from, on
    the same texts). Where these are not the texts, or not the metric, that the bundle was judged by, the teacher's
    quality is not known, and left out together with `retention`.

    Args:
        source: the bundle.
        target: folder to make.
        tasks: that the bundle was made for, by name; they bring the validation splits.
        device: to time the new file on, at the lengths of the old one.
        bits: new values by the names of the configuration's fields (`embedding_bits`, `ffn_bits`); a field of layers
            changes in all of them.
        clipping: how to choose the scales of weights with other bits; `learned` stands for `searched`, since nothing
            is learned.

    Raises:
        InputError: the bundle is damaged, is of another task, or has no such bits; or the target cannot be made; or
            several tasks bring other validation splits: quality is retention there, and the teachers' is not known.
    """
    target = expanded(target)
    if target.exists():  # found before anything is measured
        raise InputError(f"{target} exists already.", "Name a folder that does not exist yet.")
    bundle = load_bundle(source)
    old, record = bundle.config, _read_record(source)
    if not _fit(bundle, tasks):
        raise InputError(f"{source} was not made for these tasks.", f"It comes from study {old.study!r}.")
    config = _with_bits(old.student, bits)
    student = build_student(config, old.shape, len(bundle.tokens))
    changed = _take_over(student, bundle.student())
    student.set_rounding(False)

    def encode(name: str, examples: Examples) -> Encoded:
        tokenizer = wordpiece(bundle.tokens, old.normalization, tasks[name].max_length)
        return encode_examples(tokenizer, examples).for_segments(old.shape.segments)

    teachers = {name: _teacher_quality(record, name) for name in tasks}
    judged = judge(partial(run_model, open_session(source / MODEL)), encode, old.shape, tasks, teachers)
    source_quality, elsewhere = overall(judged), _judged_elsewhere(record, judged, tasks)
    if elsewhere and len(tasks) > 1:
        raise InputError(
            f"{source} was judged on other validation splits: how good its teachers are on these is not known.",
            "Name a study of the same tasks and text: --study.",
        )
    before = overall(judge(partial(run_student, student), encode, old.shape, tasks, teachers))
    for layer in changed:
        layer.use_clipping(clipping)
    student.set_rounding(True)

    def write(path: Path) -> None:
        model = export_model(config, old.shape, len(bundle.tokens), student)
        path.write_bytes(model.SerializeToString(deterministic=True))

    lengths = [reading.tokens for reading in (record.latency, record.long_latency) if reading is not None]
    key = architecture_key(config, old.shape, len(bundle.tokens))
    readings = LatencyMeter(device).measure(key, write, lengths)
    bundle_config = BundleConfig.model_validate({**dict(old), "student": config})
    with new_folder(target) as folder:
        write_model(folder, student, bundle_config, bundle.tokens)
        judged = judge(partial(run_model, open_session(folder / MODEL)), encode, old.shape, tasks, teachers)
        metrics = {**record.metrics, BEFORE: before, SOURCE_QUALITY: source_quality}
        fields = quality_fields(judged, metrics)
        if elsewhere or any(map(math.isnan, teachers.values())):
            fields["metrics"] = {name: value for name, value in fields["metrics"].items() if name not in _OF_TEACHER}
        new = record.model_copy(
            update={
                "config": config,
                **fields,
                "validation_examples": {name: len(task.validation) for name, task in tasks.items()},
                "deployed_bytes": deployed_size(folder),
                "latency": readings[0],
                "long_latency": readings[1] if len(readings) > 1 else None,
                "on_arm": None,
                "bundle": str(target),
                "versions": library_versions(),
            }
        )
        write_results(folder, bundle_config, new)
    return new


def _take_over(student: Student, trained: Student) -> list[QuantizedWeight]:
    """Copy weights in full precision, with the scales of all whose bits stay; returns those with other bits."""
    old = dict(trained.named_modules())
    changed = {
        name: layer
        for name, layer in student.named_modules()
        if isinstance(layer, QuantizedWeight) and layer.bits != old[name].bits
    }
    tensors = trained.state_dict()
    for name in changed:
        tensors.pop(f"{name}.clipping", None)
    student.load_weights(tensors)
    return list(changed.values())


def _fit(bundle: Bundle, tasks: Mapping[str, Task]) -> bool:
    shape, names = bundle.config.shape, bundle.config.label_names
    if len(tasks) > 1:
        return list(shape.tasks) == list(tasks) and names == {name: task.label_names for name, task in tasks.items()}
    task = next(iter(tasks.values()))
    return (shape.outputs, shape.segments, names) == (task.outputs, task.segments, task.label_names)


def _judged_elsewhere(record: TrialRecord, judged: Mapping[str, TaskQuality], tasks: Mapping[str, Task]) -> bool:
    """Whether a bundle's record, which names no texts, is of other texts, or another metric, than these."""
    known = {name: found.metric for name, found in record.tasks.items()} or dict.fromkeys(tasks, record.metric)
    sizes = {name: len(task.validation) for name, task in tasks.items()}
    if known != {name: task.metric for name, task in tasks.items()} or record.validation_examples not in ({}, sizes):
        return True
    most = max(_SAME_TEXTS, _FEW / min(sizes.values()))
    return abs(overall(judged) - record.quality) > (most if len(tasks) == 1 else 100 * most)


def _teacher_quality(record: TrialRecord, name: str) -> float:
    """NaN where a student was judged elsewhere before: its record has none."""
    return (
        record.tasks[name].teacher_quality if name in record.tasks else record.metrics.get("teacher_quality", math.nan)
    )


def _read_record(folder: Path) -> TrialRecord:
    try:
        content = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        return TrialRecord.model_validate({**content, "bundle": str(folder)})
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / METRICS} is missing or damaged: {str(error).splitlines()[0]}.") from error


def bit_fields(config: StudentConfig) -> set[str]:
    """Names of the fields of a configuration, shared or of layers, that are bits of weights."""

    def names(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {name for name in value if name.endswith("_bits")}
            return own.union(*map(names, value.values()))
        return set().union(*map(names, value)) if isinstance(value, list) else set()

    return names(config.model_dump(mode="json"))


def _with_bits(config: StudentConfig, bits: Mapping[str, int]) -> StudentConfig:
    """The configuration with other values of the named fields, wherever they stand."""
    found: set[str] = set()

    def change(value: Any) -> Any:
        if isinstance(value, dict):
            found.update(bits.keys() & value.keys())
            return {name: bits.get(name, change(inner)) for name, inner in value.items()}
        return [change(inner) for inner in value] if isinstance(value, list) else value

    changed = change(config.model_dump(mode="json"))
    if missing := bits.keys() - found:
        raise InputError(f"Students of family {config.family} have no {', '.join(sorted(missing))}.")
    try:
        return parse_config(changed)
    except ValidationError as error:
        raise InputError(f"Weights cannot have these bits: {error.errors()[0]['msg']}.", "Give 2, 4 or 8.") from None
