"""Quality of a bundle with the kernels of an ARM core.

ONNX Runtime's quantised products round activations (accuracy level 4), each architecture in kernels of its own, so
that a file answers slightly differently on a phone than here. Emulation without instrumentation runs the phone's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from objectives.latency import load_profile
from runners.bundle import MODEL, read_config, read_vocabulary, write_results
from runners.emulator import Installation, evaluate_on_arm, find_installation
from runners.evaluate import batched, gather_answers, open_session, run_model
from runners.latency import DeviceSpec
from runners.record import ArmQuality, TaskQuality, TrialRecord, mean_retention
from runners.task import Task
from runners.wordpiece import encode_examples, wordpiece
from space.errors import InputError

_SAME_VALUE = 1e-2  # predictions of a regression that count as equal


def measure_arm_quality(bundle: Path, tasks: Mapping[str, Task], device: DeviceSpec, record: TrialRecord) -> ArmQuality:
    """Run a bundle on at most `device.check_examples` validation examples, evenly spaced, with both sets of kernels.

    Several tasks share the examples evenly; their quality is the mean retention on them.

    Args:
        bundle: folder.
        tasks: by name.
        device: of the study.
        record: of the trial; brings the quality of several tasks' teachers.

    Raises:
        InputError: the bundle is gone or damaged, or the emulator is missing or fails.
    """
    installation = find_installation()
    if installation is None:
        raise InputError("The emulator is not installed.", "Run `shoebox emulator install`.")
    most = max(1, device.check_examples // len(tasks))
    found = {name: _measure(bundle, name, task, device, installation, most) for name, task in tasks.items()}
    if len(found) == 1:
        return next(iter(found.values()))
    parts = list(found.values())
    examples = sum(part.examples for part in parts)

    def retention(kernels: Literal["quality", "quality_here"]) -> float:
        return mean_retention(
            {
                name: TaskQuality.of(known.metric, getattr(found[name], kernels), known.teacher_quality)
                for name, known in record.tasks.items()
            }
        )

    return parts[0].model_copy(
        update={
            "examples": examples,
            "quality": retention("quality"),
            "quality_here": retention("quality_here"),
            "agreement": sum(part.agreement * part.examples for part in parts) / examples,
            "largest_difference": max(part.largest_difference for part in parts),
            "median_difference": float(np.median([part.median_difference for part in parts])),
            "tasks": found,
        }
    )


def _measure(
    bundle: Path, name: str, task: Task, device: DeviceSpec, installation: Installation, most: int
) -> ArmQuality:
    config, profile = read_config(bundle), load_profile(device.profile)
    shape, columns = config.shape.part(name)
    tokenizer = wordpiece(read_vocabulary(bundle), config.normalization, shape.max_length)
    examples = task.validation.evenly(most)
    encoded = encode_examples(tokenizer, examples).for_segments(config.shape.segments)
    here = run_model(open_session(bundle / MODEL), encoded)[:, columns]
    places, batches = zip(*batched(encoded), strict=True)
    found = evaluate_on_arm(bundle / MODEL, batches, profile, installation, per_token=config.shape.per_token)
    there = gather_answers(encoded, list(zip(places, found, strict=True)))[:, columns]
    answered = ~np.isnan(here[:, 0])  # words without a piece got no answer from either
    worst = np.abs(there - here)[answered].max(axis=1)
    same = worst < _SAME_VALUE if task.regression else (there.argmax(axis=1) == here.argmax(axis=1))[answered]
    return ArmQuality(
        device=profile.name,
        examples=len(examples),
        quality=task.quality(examples, there),
        quality_here=task.quality(examples, here),
        agreement=float(same.mean()),
        largest_difference=float(worst.max()),
        median_difference=float(np.median(worst)),
        versions=installation.versions,
    )


def add_arm_quality(bundle: Path, record: TrialRecord, found: ArmQuality) -> None:
    """Enter a measurement into a bundle's `metrics.json` and model card."""
    write_results(bundle, read_config(bundle), record.model_copy(update={"on_arm": found}))
