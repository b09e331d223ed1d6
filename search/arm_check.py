"""The front of a finished search, judged once more with the kernels of the study's ARM core."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import optuna

from runners.arm_quality import add_arm_quality, measure_arm_quality
from runners.bundle import CARD, METRICS
from runners.bundle_store import amend, fetch, is_url
from runners.latency import DeviceSpec
from runners.record import ArmQuality, TrialRecord
from runners.task import Task
from search.study import ON_ARM, Study
from space.errors import OutputError

logger = logging.getLogger("shoebox.search.arm_check")


def check_front_on_arm(study: optuna.Study, url: str, tasks: Mapping[str, Task], device: DeviceSpec) -> None:
    """Measure what is missing of the quality of the front's trials with ARM kernels.

    ONNX Runtime rounds activations by other kernels on ARM than on x86-64, so that a file's quality may differ. The
    result stands in the study and in each bundle's `metrics.json`. Takes from seconds to minutes; does nothing where
    the study does not emulate. A bundle that fails is reported and left out.
    """
    if device.latency != "emulated" or not device.check_examples:
        return
    found = dict(study.user_attrs.get(ON_ARM, {}))
    for record in Study(study, url).pareto():
        if record.on_arm is not None:
            continue
        try:
            bundle = fetch(record.bundle)
            measured = measure_arm_quality(bundle, tasks, device, record)
            _write(bundle, record, measured)
            # After the bundle: who is killed before measures once more.
            found[str(record.trial)] = measured.model_dump(mode="json")
            study.set_user_attr(ON_ARM, found)
        except Exception as error:  # a damaged bundle, a full disk: the search itself has ended well
            reason = " ".join(str(error).split())
            logger.warning("Trial %d could not be judged with ARM kernels: %s", record.trial, reason)
            continue
        logger.info(
            "Trial %d with the kernels of %s: %s %.4f, %.4f with those of this machine (%d examples).",
            record.trial,
            measured.device,
            record.metric,
            measured.quality,
            measured.quality_here,
            measured.examples,
        )


def _write(bundle: Path, record: TrialRecord, measured: ArmQuality) -> None:
    """Write a result into a bundle, at its URL if it has one; what cannot be written is told: the study keeps it."""
    try:
        add_arm_quality(bundle, record, measured)
        if is_url(record.bundle):
            amend(bundle, record.bundle, (METRICS, CARD))
            shutil.rmtree(bundle, ignore_errors=True)  # the copy in the cache: it goes by the list before
    except (OSError, OutputError) as error:
        logger.warning("The bundle of trial %d does not tell its quality on ARM: %s", record.trial, error)
