"""Record what operators cost on each shipped device, for machines that cannot emulate.

    python -m runners.record_estimates --models 200

Draws random students (all bit-widths, blocks and accuracy levels, pruned and not, 8 to 128 tokens), runs them in
the emulator and fits non-negative costs per unit of operator work to instructions and cycles, each model weighted
by its relative error. The error is stated on models held out (five folds). Writes ``objectives/latency/data``. What
was measured is kept in the cache folder, so that a run can be continued and refitted.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

import objectives.latency
from objectives.latency import cost_model_version, cycles, known_profiles, load_profile
from objectives.latency.estimate import Cost, Estimates, FitError, costed_work
from runners.emulator import find_installation, install, run_models
from runners.operators import count_operators
from space import JointSpace, SpaceSpec, TaskShape
from space.families import build_student, export_model
from space.paths import cache

_BATCH = 10
_TOKENS = (8, 16, 24, 32, 48, 64, 96, 128)
_FOLDS = 5
# Rough instructions per unit, for costs that the measured models leave open: the fit is drawn towards them, so
# weakly that a few models decide otherwise.
_ROUGH = {
    "products": 0.5,
    "weights": 4.0,
    "groups": 20.0,
    "dots": 4.0,
    "inputs": 4.0,
    "outputs": 4.0,
    "elements": 4.0,
    "rows": 40.0,
    "matrices": 500.0,
    "packed": 2.0,
    "nodes": 3000.0,
}
_ROUGH_WEIGHT = 0.01
_WIDE = {
    "width": [64, 96, 128, 192, 256, 320],
    "heads": [1, 2, 4, 8],
    "activation": ["gelu", "relu"],
    "ffn_width": [64, 128, 256, 384, 512, 768],
    "token_keep": [0.5, 0.75, 1.0],
}


def draw_students(folder: Path, first: int, count: int, tokens: int) -> list[Path]:
    """Write random students with random weights, numbered from ``first``, and return their files."""
    paths = []
    for number in range(first, first + count):
        generator = np.random.default_rng(number)
        sections: dict[str, Any] = {**_WIDE, "depth": int(generator.integers(1, 6))}
        if number % 2:  # one bit-width in the whole model tells the costs of bit-widths apart
            bits = int(generator.choice([2, 4, 8]))
            sections |= {"attention_bits": bits, "ffn_bits": bits}
        if number % 3:
            sections["token_keep"] = 1.0
        shared = {"accuracy_level": [0, 4], "block_size": [32, 64, 128], "embedding_width": [32, 64, 128]}
        spec = SpaceSpec.model_validate({**shared, "transformer": sections})
        config, _ = JointSpace(spec).draw(generator)
        shape = TaskShape(outputs=2, segments=1 + number % 2, max_length=max(_TOKENS))
        torch.manual_seed(number)
        student = build_student(config, shape, 2000)
        path = folder / f"student-{number}.onnx"
        path.write_bytes(export_model(config, shape, 2000, student).SerializeToString())
        paths.append(path)
    return paths


def record(models: int, store: Path) -> list[dict[str, Any]]:
    """Measure what the store lacks of ``models`` students, on every device. Returns all records."""
    records = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    installation = find_installation() or install(print)
    store.parent.mkdir(parents=True, exist_ok=True)
    for first in range(len(records), models, _BATCH):
        tokens = _TOKENS[first // _BATCH % len(_TOKENS)]
        with tempfile.TemporaryDirectory(prefix="shoebox-record-") as name:
            paths = draw_students(Path(name), first, _BATCH, tokens)
            batch: list[dict[str, Any]] = [
                {"tokens": tokens, "work": count_operators(path, tokens), "devices": {}} for path in paths
            ]
            for device in known_profiles():
                profile = load_profile(device)
                for entry, run in zip(batch, run_models(paths, tokens, profile, installation), strict=True):
                    spent = cycles(run.counts, profile)
                    measured = {"instructions": run.counts.instructions, "cycles": spent.compute + spent.stall}
                    entry["devices"][device] = measured
        with store.open("a") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in batch)
        records += batch
        print(f"{len(records)} of {models} models measured", flush=True)
    return records[:models]


def fit(records: Sequence[dict[str, Any]], device: str, quantity: str) -> dict[str, float]:
    """Non-negative cost per unit of work that predicts a quantity of a device with least relative error."""
    amounts = [costed_work(entry["work"]) for entry in records]
    keys = sorted({key for entry in amounts for key in entry})
    work = np.array([[entry.get(key, 0.0) for key in keys] for entry in amounts])
    target = np.array([entry["devices"][device][quantity] for entry in records])
    rough = np.array([_ROUGH[key.rpartition(".")[2]] for key in keys])
    # In units of the rough costs: models weighted by their relative error, then one weak row per cost.
    system = np.vstack([work * rough / target[:, None], _ROUGH_WEIGHT * np.eye(len(keys))])
    wanted = np.concatenate([np.ones(len(records)), np.full(len(keys), _ROUGH_WEIGHT)])
    solution, _ = nnls(system, wanted, maxiter=100 * len(keys))
    return {key: float(cost) for key, cost in zip(keys, solution * rough, strict=True)}


def estimates_of(records: Sequence[dict[str, Any]], device: str, versions: dict[str, str]) -> Estimates:
    """Fit one device: the error by cross-validation, the shipped costs on all models."""
    errors = []
    for fold in range(_FOLDS):
        rest = [entry for index, entry in enumerate(records) if index % _FOLDS != fold]
        trial = fit(rest, device, "cycles")
        for entry in records[fold::_FOLDS]:
            predicted = sum(amount * trial[key] for key, amount in costed_work(entry["work"]).items() if key in trial)
            errors.append(abs(predicted / entry["devices"][device]["cycles"] - 1))
    fitted = {quantity: fit(records, device, quantity) for quantity in ("instructions", "cycles")}
    costs = {
        key: Cost(instructions=fitted["instructions"][key], cycles=fitted["cycles"][key]) for key in fitted["cycles"]
    }
    return Estimates(
        device=device,
        recorded=date.today().isoformat(),
        versions=versions,
        error=FitError(models=len(errors), median=float(np.median(errors)), maximum=float(np.max(errors))),
        costs={key: cost for key, cost in sorted(costs.items()) if cost.instructions or cost.cycles},
    )


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Record operator costs for estimated latency.")
    parser.add_argument("--models", type=int, default=200, help="random students to measure")
    parser.add_argument("--fit-only", action="store_true", help="only fit what was measured before")
    arguments = parser.parse_args()
    installation = find_installation() or install(print)
    versions = {**installation.versions, "cost_model": cost_model_version()}
    store = cache() / "estimates" / f"{'-'.join(versions.values())}.jsonl"
    stored = len(store.read_text().splitlines()) if store.exists() else 0
    records = record(stored if arguments.fit_only else arguments.models, store)
    folder = Path(next(iter(objectives.latency.__path__))) / "data"
    for device in known_profiles():
        fitted = estimates_of(records, device, versions)
        temporary = folder / f"{device}.json.part"
        temporary.write_text(fitted.model_dump_json(indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, folder / f"{device}.json")
        error = fitted.error
        print(f"{device}: error {error.median:.1%} median, {error.maximum:.1%} maximum on {error.models} models")


if __name__ == "__main__":
    main()
