"""Quality of a bundle with the kernels of an ARM core.

ONNX Runtime's quantised products round activations (accuracy level 4), each architecture in kernels of its own, so
that a file answers slightly differently on a phone than here. Emulation without instrumentation runs the phone's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from objectives.latency import load_profile
from runners.bundle import MODEL, read_config, read_vocabulary, write_results
from runners.emulator import evaluate_on_arm, find_installation
from runners.evaluate import batched, gather_answers, open_session, run_model
from runners.latency import DeviceSpec
from runners.record import ArmQuality, TrialRecord
from runners.task import Task
from runners.wordpiece import encode_examples, wordpiece
from space.errors import InputError

_SAME_VALUE = 1e-2  # predictions of a regression that count as equal


def measure_arm_quality(bundle: Path, task: Task, device: DeviceSpec) -> ArmQuality:
    """Run a bundle on at most `device.check_examples` validation examples, evenly spaced, with both sets of kernels.

    Raises:
        InputError: the bundle is gone or damaged, or the emulator is missing or fails.
    """
    installation = find_installation()
    if installation is None:
        raise InputError("The emulator is not installed.", "Run `shoebox emulator install`.")
    config, profile = read_config(bundle), load_profile(device.profile)
    tokenizer = wordpiece(read_vocabulary(bundle), config.lower_case, config.shape.max_length)
    count = len(task.validation)
    rows = np.linspace(0, count - 1, min(count, device.check_examples)).round().astype(int)
    examples = task.validation.take(rows)
    encoded = encode_examples(tokenizer, examples)
    here = run_model(open_session(bundle / MODEL), encoded)
    places, batches = zip(*batched(encoded), strict=True)
    found = evaluate_on_arm(bundle / MODEL, batches, profile, installation, per_token=config.shape.per_token)
    there = gather_answers(encoded, list(zip(places, found, strict=True)))
    answered = ~np.isnan(here[:, 0])  # words without a piece got no answer from either
    worst = np.abs(there - here)[answered].max(axis=1)
    same = worst < _SAME_VALUE if task.regression else (there.argmax(axis=1) == here.argmax(axis=1))[answered]
    return ArmQuality(
        device=profile.name,
        examples=len(rows),
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
