"""Half-trained students on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from runners.tensors import save_tensors
from space.errors import InputError

_LOSSES = "losses"
_TRAINING = "training"  # in the metadata


def write_checkpoint(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    losses: npt.NDArray[np.float64],
    training: str = "",
) -> None:
    """Write modules, the optimiser's moments, and the loss of each step so far to a safetensors file.

    No state of a random generator is among them: batches follow from the seed and the number of the step.

    Args:
        training: digest of what the training follows from; empty where the file's own path says it.
    """
    tensors = {_LOSSES: torch.from_numpy(losses.copy())}
    for name, value in _module_tensors(modules).items():
        tensors[name] = value.detach().cpu().contiguous()
    for index, parameter in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{index}.{key}"] = value.detach().cpu().contiguous()
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        save_tensors({name: value.clone() for name, value in tensors.items()}, part, {_TRAINING: training})
        with part.open("rb") as file:
            os.fsync(file.fileno())  # else the name could outlive a power failure, and what it names not
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, steps: int, training: str = ""
) -> npt.NDArray[np.float64]:
    """Fill modules and optimiser from a file of `write_checkpoint`; returns the losses, one a step.

    Args:
        steps: of the whole training.
        training: as of `write_checkpoint`.

    Raises:
        InputError: the file is of another training, or damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
            written_by = (file.metadata() or {}).get(_TRAINING, "")
    except (OSError, SafetensorError) as error:
        raise InputError(f"The checkpoint {path} could not be read ({error}).") from error
    own = _module_tensors(modules)
    saved = {name: value for name, value in tensors.items() if not name.startswith("optimizer.") and name != _LOSSES}
    if _LOSSES not in tensors or {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in saved.items()}:
        raise InputError(f"The checkpoint {path} is of another student or recipe.", "Train from the start.")
    if written_by != training or len(tensors[_LOSSES]) > steps:
        raise InputError(
            f"The checkpoint {path} is of another training: of other data, settings or seeds.", "Train from the start."
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(saved[name])
    for index, parameter in enumerate(_parameters(optimizer)):
        prefix = f"optimizer.{index}."
        found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if found:
            # The step count stays where AdamW keeps it: beside the parameter.
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in found.items()}
    losses: npt.NDArray[np.float64] = tensors[_LOSSES].numpy()
    return losses


def _module_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
