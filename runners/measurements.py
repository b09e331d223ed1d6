"""Raw emulator counts of many models, kept so that a changed cost model needs no new emulation.

A store is a folder. Each batch of measurements is one ``.npz`` of executed blocks (distinct blocks once per
instruction set, then which ran how often) and one ``.json`` that says what was measured, with the cache counts.
Blocks are the same on all cores that offer the same instructions; cache counts on all with the same caches too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from objectives.latency import CacheCounts, DeviceProfile, ExecutionCounts, load_profile
from runners.emulator import Installation, run_models
from space.errors import InputError

Blocks = Mapping[tuple[int, ...], int]


@dataclass(frozen=True)
class Measurement:
    """What one model did at one length.

    Attributes:
        subject: what was measured, as plain data.
        blocks: executed blocks and their executions, by `instruction_set`.
        caches: by `cache_key`.
    """

    subject: Mapping[str, Any]
    blocks: Mapping[str, Blocks]
    caches: Mapping[str, CacheCounts]

    def counts(self, profile: DeviceProfile) -> ExecutionCounts:
        """As the emulator would have returned them for this device; without cache misses where none were counted.

        Raises:
            InputError: nothing was counted for a core with these instructions.
        """
        blocks = self.blocks.get(instruction_set(profile))
        if blocks is None:
            raise InputError(f"Nothing was recorded for the instructions of {profile.name}.", "Record again.")
        return ExecutionCounts(blocks, self.caches.get(cache_key(profile), _NO_CACHES))

    def has_caches(self, profile: DeviceProfile) -> bool:
        """Whether cache misses were counted for this device."""
        return cache_key(profile) in self.caches


_NO_CACHES = CacheCounts()


def instruction_set(profile: DeviceProfile) -> str:
    """Names what decides which instructions a core executes: the features that the runtime asks for."""
    features = " ".join(sorted(set(profile.emulation.features.split())))
    return hashlib.sha256(features.encode()).hexdigest()[:8]


def cache_key(profile: DeviceProfile) -> str:
    """Names what cache counts depend on."""
    return "/".join([instruction_set(profile), *(size.option() for size in profile.memory.caches().values())])


def measure_batch(
    models: Sequence[Path],
    subjects: Sequence[Mapping[str, Any]],
    tokens: int,
    devices: Sequence[str],
    installation: Installation,
) -> list[Measurement]:
    """Run models of one length on every device. Raises InputError as `run_models`."""
    blocks: list[dict[str, Blocks]] = [{} for _ in models]
    caches: list[dict[str, CacheCounts]] = [{} for _ in models]
    for device in devices:
        profile = load_profile(device)
        for index, run in enumerate(run_models(models, tokens, profile, installation)):
            blocks[index].setdefault(instruction_set(profile), run.counts.blocks)
            caches[index][cache_key(profile)] = run.counts.caches
    return [Measurement(*entry) for entry in zip(subjects, blocks, caches, strict=True)]


def save(measurements: Sequence[Measurement], folder: Path, name: str) -> None:
    """Write one batch; the ``.json`` last, so that a batch with one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for cpu in measurements[0].blocks:
        numbers: dict[tuple[int, ...], int] = {}
        ids: list[int] = []
        executions: list[int] = []
        starts = [0]
        for measurement in measurements:
            for words, count in measurement.blocks[cpu].items():
                ids.append(numbers.setdefault(words, len(numbers)))
                executions.append(count)
            starts.append(len(ids))
        arrays[f"{cpu}.words"] = np.array([word for words in numbers for word in words], np.uint32)
        arrays[f"{cpu}.lengths"] = np.array([len(words) for words in numbers], np.uint32)
        arrays[f"{cpu}.ids"] = np.array(ids, np.uint32)
        arrays[f"{cpu}.executions"] = np.array(executions, np.uint64)
        arrays[f"{cpu}.starts"] = np.array(starts, np.uint64)
    temporary = folder / f".{name}.{os.getpid()}.npz"  # which numpy would add
    np.savez_compressed(temporary, allow_pickle=False, **arrays)
    os.replace(temporary, folder / f"{name}.npz")
    entries = [
        {"subject": dict(m.subject), "caches": {device: asdict(caches) for device, caches in m.caches.items()}}
        for m in measurements
    ]
    temporary = folder / f".{name}.{os.getpid()}.part"
    temporary.write_text(json.dumps(entries), encoding="utf-8")
    os.replace(temporary, folder / f"{name}.json")


def batches(folder: Path) -> list[Path]:
    """The ``.json`` of every whole batch of a store, by name; what a killed process left half written is none."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def load(folder: Path) -> Iterator[Measurement]:
    """All measurements of a store, batch by batch in the order of their names."""
    for path in batches(folder):
        entries = json.loads(path.read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz")) as file:
            arrays = {key: file[key] for key in file.files}
        cpus = sorted({key.rpartition(".")[0] for key in arrays})
        tables = {}
        for cpu in cpus:
            ends = np.cumsum(arrays[f"{cpu}.lengths"].astype(np.int64))
            words = arrays[f"{cpu}.words"].tolist()
            tables[cpu] = [
                tuple(words[end - length : end])
                for end, length in zip(ends.tolist(), arrays[f"{cpu}.lengths"].tolist(), strict=True)
            ]
        for index, entry in enumerate(entries):
            blocks: dict[str, Blocks] = {}
            for cpu in cpus:
                start, end = arrays[f"{cpu}.starts"][index : index + 2].tolist()
                ids = arrays[f"{cpu}.ids"][start:end].tolist()
                executions = arrays[f"{cpu}.executions"][start:end].tolist()
                table = tables[cpu]
                blocks[cpu] = {table[number]: count for number, count in zip(ids, executions, strict=True)}
            caches = {device: CacheCounts(**counts) for device, counts in entry["caches"].items()}
            yield Measurement(entry["subject"], blocks, caches)
