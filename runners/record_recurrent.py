"""Record what LSTM and GRU operators cost on each shipped device, for the latency model.

    python -m runners.record_recurrent            # measure what is missing (minutes), then fit
    python -m runners.record_recurrent --fit-only # fit again what was measured

Run it after `runners.record_estimates`, whose costs it leaves as they are and adds to: random students of the family
birnn are measured, what the recorded costs say of their other operators is taken off, and the rest is fitted to the
amounts of work and memory traffic that recurrent operators alone have. What was measured is kept raw in the cache
folder. Errors are stated by cross-validation, as there.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import objectives.latency
from objectives.latency import cost_model_version, known_profiles, load_profile
from objectives.latency.estimate import add_up
from objectives.latency.recorded import Cost, Estimates, load_estimates
from objectives.latency.traffic import RECURRENT
from runners.emulator import Installation, find_installation, install
from runners.fit_estimates import Sample, fit_linear, sample, summarize
from runners.measurements import load, measure_batch, save
from runners.record_estimates import student_calls
from space import JointSpace, SpaceSpec, TaskShape
from space.config import StudentConfig
from space.families import build_student, export_model
from space.paths import cache

SPACE = SpaceSpec.model_validate(
    {
        "families": ["birnn"],
        "birnn": {
            "depth": [1, 2],
            "hidden_width": {"low": 32, "high": 288, "step": 32},
            "pooling": ["mean", "max"],
        },
    }
)
_LENGTHS = (8, 16, 32, 12, 64, 24)  # of the batches in turn
_BATCH = 8
_FOLDS = 4
_RIDGE = 1e-3


def draw_recurrent(seed: int) -> tuple[StudentConfig, TaskShape, int]:
    """A random configuration, a task's shape and a size of the vocabulary."""
    generator = np.random.default_rng(seed)
    config, _ = JointSpace(SPACE).draw(generator)
    shape = TaskShape(outputs=3, segments=1, max_length=128, per_token=bool(generator.integers(2)))
    return config, shape, int(generator.integers(1500, 6000))


def record(folder: Path, batches: int, installation: Installation) -> None:
    """Measure what a store lacks."""
    for batch in range(batches):
        name, tokens = f"birnn-{batch:03d}", _LENGTHS[batch % len(_LENGTHS)]
        if (folder / f"{name}.json").exists():
            continue
        with tempfile.TemporaryDirectory(prefix="shoebox-record-") as temporary:
            paths: list[Path] = []
            subjects: list[dict[str, Any]] = []
            for seed in range(20_000 + batch * _BATCH, 20_000 + (batch + 1) * _BATCH):
                config, shape, size = draw_recurrent(seed)
                torch.manual_seed(seed)
                paths.append(Path(temporary) / f"student-{len(paths)}.onnx")
                student = build_student(config, shape, size)
                paths[-1].write_bytes(export_model(config, shape, size, student).SerializeToString())
                calls = student_calls(config, shape, size, tokens)
                described = {"kind": "birnn", "tokens": tokens, "summary": config.summary()}
                subjects.append({"seed": seed, "calls": calls, **described})
            save(measure_batch(paths, subjects, tokens, known_profiles(), installation), folder, name)
        print(f"{(batch + 1) * _BATCH} of {batches * _BATCH} students measured", flush=True)


def is_recurrent(name: str) -> bool:
    """Whether a unit of work or a feature of memory traffic belongs to recurrent operators."""
    return name.startswith(tuple(f"{kind}." for kind in RECURRENT)) or "recurrent" in name


class _Residue:
    """What samples cost beyond what is known of them.

    Args:
        known: costs of all other operators.
        samples: to fit to.
    """

    def __init__(self, known: Estimates, samples: Sequence[Sample]) -> None:
        costs = {name: cost for name, cost in known.costs.items() if not is_recurrent(name)}
        self._instructions = {name: cost.instructions for name, cost in costs.items()}
        self._cycles = {name: cost.cycles for name, cost in costs.items()}
        self._stalls = {name: cost for name, cost in known.stalls.items() if not is_recurrent(name)}
        own_work = [_own(entry.work) for entry in samples]
        rest = [entry.instructions - add_up(entry.work, self._instructions) for entry in samples]
        self.instructions = fit_linear(own_work, rest, [entry.instructions for entry in samples], _RIDGE)
        rest = [entry.compute - add_up(entry.work, self._cycles) for entry in samples]
        self.compute = fit_linear(own_work, rest, [entry.compute for entry in samples], _RIDGE)
        counted = [entry for entry in samples if entry.stall is not None]
        rest = [(entry.stall or 0.0) - add_up(entry.memory, self._stalls) for entry in counted]
        totals = [entry.compute + (entry.stall or 0.0) for entry in counted]
        self.stalls = fit_linear([_own(entry.memory) for entry in counted], rest, totals, _RIDGE)

    def error(self, entry: Sample) -> float:
        """Signed relative error of the cycles of a sample."""
        found = add_up(entry.work, self._cycles | self.compute) + add_up(entry.memory, self._stalls | self.stalls)
        return found / (entry.compute + (entry.stall or 0.0)) - 1


def _own(amounts: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in amounts.items() if is_recurrent(name)}


def estimates_of(known: Estimates, samples: Sequence[Sample]) -> Estimates:
    """The recorded costs of a device with those of recurrent operators."""
    errors = []
    for fold in range(_FOLDS):
        fitted = _Residue(known, [entry for entry in samples if entry.subject["seed"] % _FOLDS != fold])
        held_out = [entry for entry in samples if entry.subject["seed"] % _FOLDS == fold]
        errors += [fitted.error(entry) for entry in held_out if entry.stall is not None]
    whole = _Residue(known, samples)
    names = sorted({*whole.instructions, *whole.compute})
    own = {
        name: Cost(instructions=whole.instructions.get(name, 0), cycles=whole.compute.get(name, 0)) for name in names
    }
    return known.model_copy(
        update={
            "error": {**known.error, "birnn": summarize(errors)},
            "kinds": sorted({*known.kinds, *RECURRENT}),
            "costs": {name: cost for name, cost in known.costs.items() if not is_recurrent(name)} | own,
            "stalls": {name: cost for name, cost in known.stalls.items() if not is_recurrent(name)} | whole.stalls,
        }
    )


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Record costs of recurrent operators for the latency model.")
    parser.add_argument("--batches", type=int, default=8, help=f"batches of {_BATCH} random students to measure")
    parser.add_argument("--fit-only", action="store_true", help="only fit what was measured before")
    arguments = parser.parse_args()
    installation = find_installation() or install(print)
    store = cache() / "estimates" / "recurrent" / "-".join(installation.versions.values())
    if not arguments.fit_only:
        record(store, arguments.batches, installation)
    folder = Path(next(iter(objectives.latency.__path__))) / "data"
    for device in known_profiles():
        profile = load_profile(device)
        known = load_estimates(profile)
        present = {"onnxruntime": installation.versions["onnxruntime"], "cost_model": cost_model_version()}
        if not present.items() <= known.versions.items():
            parser.error(f"the costs of {device} are of {known.versions}: run runners.record_estimates first")
        found = estimates_of(known, [sample(measurement, profile) for measurement in load(store)])
        error = found.error["birnn"]
        print(f"{device}: {error.median:.1%} median, {error.maximum:.1%} maximum", flush=True)
        part = folder / f"{device}.json.part"
        part.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
        os.replace(part, folder / f"{device}.json")


if __name__ == "__main__":
    main()
