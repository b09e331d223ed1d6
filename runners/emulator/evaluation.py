"""A model's outputs from the ARM kernels: under emulation without counting, which is several times as fast."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from objectives.latency import DeviceProfile
from runners.emulator.execution import emulated_runner, raised, work_folder
from runners.emulator.installation import Installation
from runners.emulator.requests import Request, send, vocabulary_size
from space.errors import InputError

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Batch = dict[str, npt.NDArray[np.int64]]


def evaluate_on_arm(
    model: Path,
    batches: Sequence[Batch],
    profile: DeviceProfile,
    installation: Installation,
    *,
    per_token: bool = False,
    jobs: int | None = None,
    seconds: float = 3600.0,
) -> list[npt.NDArray[np.float32]]:
    """Outputs of a model for given inputs, computed by the kernels of an ARM core: for each batch float32
    [rows, outputs], or [rows, width, outputs] where the model answers each token.

    To compare with this machine's kernels, give both the same batches (`runners.evaluate.batched`): a product of many
    rows is computed by other kernels than one of few.

    Args:
        model: ONNX file.
        batches: int64 arrays [rows, width] called input_ids, attention_mask and, for pairs, token_type_ids.
        profile: device; its core decides on the kernels.
        installation: emulator.
        per_token: whether the model answers each token.
        jobs: processes at a time, default as many as there are cores for this process.
        seconds: time limit of each process.

    Raises:
        InputError: the model cannot be loaded or run, or the emulator fails.
    """
    if not batches:
        raise InputError("There are no inputs to evaluate the model on.")
    vocabulary_size(model)  # says what is wrong with a file that is missing or no model
    with work_folder(installation, profile) as name:
        folder, work = Path(name), Path(name) / "work"
        runner = emulated_runner(installation, profile, folder, plugin=False, jobs=jobs)
        shares = _shares(batches, runner.jobs)
        requests = []
        for number, share in enumerate(shares):
            _write(work / f"batches-{number}", [batches[index] for index in share])
            requests.append(Request(model, ("evaluate", f"batches-{number}", f"results-{number}")))
        for answer in send(runner, requests, work, seconds):
            raised(answer)
        results: dict[int, npt.NDArray[np.float32]] = {}
        for number, share in enumerate(shares):
            values = np.fromfile(work / f"results-{number}", np.float32)
            shapes = [batches[index]["input_ids"].shape[: 2 if per_token else 1] for index in share]
            answers = [prod(shape) for shape in shapes]
            if not values.size or values.size % sum(answers):
                raise InputError(f"{model} answered {values.size} float32 values for {sum(answers)} inputs.")
            parts = np.split(values.reshape(sum(answers), -1), np.cumsum(answers)[:-1])
            for index, shape, part in zip(share, shapes, parts, strict=True):
                results[index] = part.reshape(*shape, -1)
    return [results[index] for index in range(len(batches))]


def _shares(batches: Sequence[Batch], most: int) -> list[list[int]]:
    """Batches of about equal work for at most ``most`` processes, each by rising number."""
    work = [batch["input_ids"].size for batch in batches]
    shares: list[list[int]] = [[] for _ in range(min(most, len(batches)))]
    loads = [0] * len(shares)
    for index in sorted(range(len(batches)), key=lambda index: -work[index]):
        lightest = loads.index(min(loads))
        shares[lightest].append(index)
        loads[lightest] += work[index]
    return [sorted(share) for share in shares]


def _write(path: Path, batches: Sequence[Batch]) -> None:
    """The file of batches that ``runner.c`` describes."""
    with path.open("wb") as file:
        for batch in batches:
            arrays = [np.ascontiguousarray(batch[name], np.int64) for name in _INPUTS if name in batch]
            rows, width = arrays[0].shape
            file.write(np.array([rows, width, len(arrays)], np.int64).tobytes())
            for array in arrays:
                file.write(array.tobytes())
