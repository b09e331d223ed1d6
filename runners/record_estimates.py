"""Record what operators cost on each shipped device, for the latency model.

    python -m runners.record_estimates            # measure what is missing (an hour on one core), then fit
    python -m runners.record_estimates --fit-only # fit again what was measured: some minutes

What is measured: single operators of transformers, and random students of every family, half of them of the default
space and half of a wider one (all blocks and accuracy levels, deeper, other widths). What was measured is kept raw in
the cache folder, batch by batch, so that a recording can be continued and a changed cost model or device profile fitted
without emulating again. Errors are stated for students by cross-validation: each predicted by costs that were fitted
without it. Writes ``objectives/latency/data``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

import objectives.latency
from objectives.latency import cost_model_version, known_profiles, load_profile
from objectives.latency.recorded import Estimates, profile_digest
from runners.emulator import Installation, find_installation, install
from runners.fit_estimates import LIVE, Sample, fit, relative_errors, sample, summarize
from runners.measurements import Measurement, batches, cache_key, load, measure_batch, save
from runners.operators import count_operators
from runners.recorded_students import SPACES, draw_student, plan_of, spaces_of
from runners.single_operators import TOKENS, choose_calls, single_operator
from space import TaskShape
from space.config import StudentConfig
from space.families import FAMILIES, build_student, export_model, get_family
from space.operators import OperatorCall
from space.paths import cache

_SINGLES_BATCH = 60


def student_calls(config: StudentConfig, shape: TaskShape, vocabulary_size: int, tokens: int) -> list[OperatorCall]:
    """All operators of a configuration in order."""
    sections = get_family(config.family).sections(config, shape, vocabulary_size, tokens)
    return [call for section in sections for call in section.calls]


def measure_students(
    students: Sequence[tuple[str, int]], tokens: int, devices: Sequence[str], installation: Installation
) -> list[Measurement]:
    """Measure random students, given by space and seed, with random weights."""
    with tempfile.TemporaryDirectory(prefix="shoebox-record-") as name:
        paths: list[Path] = []
        subjects: list[dict[str, Any]] = []
        for space, seed in students:
            config, shape, vocabulary_size = draw_student(space, seed)
            torch.manual_seed(seed)
            student = build_student(config, shape, vocabulary_size)
            paths.append(Path(name) / f"student-{len(paths)}.onnx")
            paths[-1].write_bytes(export_model(config, shape, vocabulary_size, student).SerializeToString())
            calls = student_calls(config, shape, vocabulary_size, tokens)
            described = {"config": config.model_dump(mode="json"), "summary": config.summary()}
            subjects.append({"kind": space, "seed": seed, "tokens": tokens, "calls": calls, **described})
        return measure_batch(paths, subjects, tokens, devices, installation)


def measure_singles(
    calls: Sequence[OperatorCall], devices: Sequence[str], installation: Installation
) -> list[Measurement]:
    """Measure one operator per model."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="shoebox-record-") as name:
        paths = [Path(name) / f"single-{index}.onnx" for index in range(len(calls))]
        subjects = []
        for path, call in zip(paths, calls, strict=True):
            path.write_bytes(single_operator(call, generator).SerializeToString())
            subjects.append({"kind": "single", "calls": count_operators(path, TOKENS)})
        return measure_batch(paths, subjects, TOKENS, devices, installation)


def _singles() -> list[OperatorCall]:
    """Calls that random students make at random lengths."""
    generator = np.random.default_rng(1)
    calls: list[OperatorCall] = []
    for number in range(1500):
        config, shape, vocabulary_size = draw_student(spaces_of("transformer")[number % 2], 90_000 + number)
        tokens = round(float(np.exp(generator.uniform(0, np.log(128.4)))))
        calls += student_calls(config, shape, vocabulary_size, tokens)
    return choose_calls(calls, generator)


def record(folder: Path, installation: Installation) -> None:
    """Measure what a store lacks."""
    devices = known_profiles()
    # Caches hold a single operator whatever they are like: one device of each instruction set will do.
    few = list({cache_key(load_profile(device)).partition("/")[0]: device for device in devices}.values())
    calls = _singles()
    for first in range(0, len(calls), _SINGLES_BATCH):
        name = f"single-{first:05d}"
        if not (folder / f"{name}.json").exists():
            save(measure_singles(calls[first : first + _SINGLES_BATCH], few, installation), folder, name)
            print(f"{min(first + _SINGLES_BATCH, len(calls))} of {len(calls)} single operators measured", flush=True)
    for family in FAMILIES:
        plan = plan_of(family)
        for batch in range(plan.batches):
            name = f"{family}-{batch:03d}"
            if not (folder / f"{name}.json").exists():
                seeds = range(plan.first_seed + batch * plan.size, plan.first_seed + (batch + 1) * plan.size)
                students = [(spaces_of(family)[seed % 2], seed) for seed in seeds]
                tokens = plan.tokens[batch % len(plan.tokens)]
                save(measure_students(students, tokens, devices, installation), folder, name)
                print(f"{family}: {batch + 1} of {plan.batches} batches measured", flush=True)


def samples_of(folder: Path, devices: Sequence[str]) -> dict[str, list[Sample]]:
    """All measurements of a store, costed on each device."""
    found: dict[str, list[Sample]] = {device: [] for device in devices}
    for measurement in load(folder):
        for device in devices:
            found[device].append(sample(measurement, load_profile(device)))
    return found


def estimates_of(device: str, samples: Sequence[Sample], versions: dict[str, str]) -> Iterator[str | Estimates]:
    """Fit one device: yields lines to print, then what to ship, which is fitted to all students."""
    profile = load_profile(device)
    errors = relative_errors(samples, profile.memory)
    stated = {}
    for space in SPACES:
        own = [(entry, error) for entry, error in errors if entry.subject["kind"] == space]
        stated[space] = summarize([error for _, error in own])
        yield f"{device}, {space}: {stated[space].median:.1%} median, {stated[space].maximum:.1%} maximum"
        for entry, error in sorted(own, key=lambda pair: -abs(pair[1]))[:3]:
            yield f"    {error:+.1%} at {entry.subject['tokens']} tokens: {entry.subject.get('summary', '')}"
    fitted = fit(samples, profile.memory)
    yield Estimates(
        device=device,
        profile=profile_digest(profile),
        recorded=date.today().isoformat(),
        versions=versions,
        error=stated,
        live=LIVE,
        kinds=sorted({kind for entry in samples for kind in entry.kinds}),
        costs=fitted.costs(),
        stalls=fitted.stalls,
    )


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Record operator costs for the latency model.")
    parser.add_argument("--fit-only", action="store_true", help="only fit what was measured before")
    parser.add_argument("--devices", nargs="+", choices=known_profiles(), default=known_profiles(), help="to fit")
    arguments = parser.parse_args()
    installation = find_installation() or install(print)
    store = cache() / "estimates" / "-".join(installation.versions.values())
    if not arguments.fit_only:
        record(store, installation)
    elif not batches(store):
        parser.error(f"nothing was measured with these tools yet, {store} is empty: leave out --fit-only")
    folder = Path(next(iter(objectives.latency.__path__))) / "data"
    versions = {**installation.versions, "cost_model": cost_model_version()}
    for device, samples in samples_of(store, arguments.devices).items():
        for found in estimates_of(device, samples, versions):
            if isinstance(found, str):
                print(found, flush=True)
                continue
            temporary = folder / f".{device}.json.{os.getpid()}.part"
            temporary.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
            os.replace(temporary, folder / f"{device}.json")


if __name__ == "__main__":
    main()
