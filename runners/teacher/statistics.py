"""What a fine-tuned teacher does on a sample of its task: the measure of what a smaller model must keep."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from runners.batches import Encoded, collate, encode
from runners.cache_entry import make_once
from runners.precision import autocast, training_device
from runners.task import Task
from runners.teacher.model import Teacher, find_model, load_tokenizer
from runners.teacher.prepare import load_teacher
from runners.teacher.store import TeacherOutputs
from runners.tensors import save_tensors

_log = logging.getLogger("shoebox.runners.teacher")
_TEXTS, _TOKENS = 1024, 16_384  # the sample, at most
_BATCH = 32
_FILE = "statistics.safetensors"


@dataclass(frozen=True, eq=False)
class Inside:
    """Of L layers that are laid out like BERT's, over the tokens of a sample; float32.

    Attributes:
        middle_mean: [L, width], of the states between attention and feed-forward network.
        middle_covariance: [L, width, width].
        head_power: [L, heads], mean squared length of what each head adds to the residual stream, its mean apart.
        neuron_power: [L, inner width], the same of each neuron of the feed-forward network.
        neuron_mean: [L, inner width], mean activation.
    """

    middle_mean: Tensor
    middle_covariance: Tensor
    head_power: Tensor
    neuron_power: Tensor
    neuron_mean: Tensor


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Of a teacher with L layers, over the tokens of a sample of its train split; float32.

    Attributes:
        state_mean: [L + 1, width], of the hidden states that enter each layer, and of those that leave the last.
        state_covariance: [L + 1, width, width].
        inside: what goes on in the layers; None where they are not laid out like BERT's.
    """

    state_mean: Tensor
    state_covariance: Tensor
    inside: Inside | None

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.state_mean) - 1


def prepare_statistics(outputs: TeacherOutputs, task: Task, max_length: int) -> LayerStatistics:
    """Statistics of a fine-tuned teacher: from its cache entry, or made now (seconds) and kept there.

    Args:
        outputs: names the cache entry.
        task: that the teacher was fine-tuned on.
        max_length: longest input of the teacher in word pieces.

    Raises:
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    folder = outputs.folder.with_suffix(".statistics")

    def fill(part: Path) -> None:
        tokenizer, _ = load_tokenizer(find_model(outputs.model), outputs.model)
        count = min(len(task.train), _TEXTS, max(1, int(_TOKENS / outputs.median_length)))
        rows = np.linspace(0, len(task.train) - 1, count).astype(np.int64)
        with torch.random.fork_rng(devices=[]):  # a teacher's module draws numbers before it has its weights
            teacher = load_teacher(outputs)
        found = layer_statistics(teacher, encode(tokenizer, task.train.take(rows), max_length))
        write_statistics(part, found)

    return make_once(folder, lambda: read_statistics(folder), fill, "teacher's statistics", _log)


def write_statistics(folder: Path, statistics: LayerStatistics) -> None:
    """Write statistics into the folder of a cache entry.

    Raises:
        OSError: the disk is full.
    """
    tensors = {"state_mean": statistics.state_mean, "state_covariance": statistics.state_covariance}
    if statistics.inside is not None:
        tensors.update(vars(statistics.inside))
    save_tensors(tensors, folder / _FILE)


def read_statistics(folder: Path) -> LayerStatistics:
    """What `write_statistics` wrote.

    Raises:
        OSError, ValueError: the file is missing or damaged.
    """
    try:
        tensors = load_file(str(folder / _FILE))
        states = (tensors.pop("state_mean"), tensors.pop("state_covariance"))
    except (SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error
    return LayerStatistics(*states, Inside(**tensors) if tensors else None)


def bert_layers(encoder: nn.Module) -> list[Any] | None:
    """The layers of an encoder that is laid out like BERT, else None."""
    layers = getattr(getattr(encoder, "encoder", None), "layer", None)
    if layers is None or not all(hasattr(layer, "attention") and hasattr(layer, "intermediate") for layer in layers):
        return None
    return list(layers)


@torch.inference_mode()
def layer_statistics(teacher: Teacher, encoded: Encoded) -> LayerStatistics:
    """Statistics over all the texts given."""
    layers = bert_layers(teacher.encoder)
    states: list[Moments] = []
    device = training_device()
    teacher.to(device).eval()
    middle, heads, neurons = ([Moments() for _ in layers or ()] for _ in range(3))
    with _recorded(layers or []) as seen:
        for start in range(0, len(encoded), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(encoded)))
            batch = collate(encoded, rows, device)
            with autocast(device):
                hidden_states = teacher.encode(batch, hidden_states=True).hidden_states
            real = batch["attention_mask"].bool()
            states = states or [Moments() for _ in hidden_states]
            for moments, hidden in zip(states, hidden_states, strict=True):
                moments.add(hidden[real])
            for name, group in (("middle", middle), ("mixed", heads), ("active", neurons)):
                for index, moments in enumerate(group):
                    moments.add(seen[name, index][real], full=name != "active")
    return LayerStatistics(
        state_mean=torch.stack([moments.mean() for moments in states]),
        state_covariance=torch.stack([moments.covariance() for moments in states]),
        inside=None
        if layers is None
        else Inside(
            middle_mean=torch.stack([moments.mean() for moments in middle]),
            middle_covariance=torch.stack([moments.covariance() for moments in middle]),
            head_power=torch.stack([_head_power(*of) for of in zip(layers, heads, strict=True)]),
            neuron_power=torch.stack([_neuron_power(*of) for of in zip(layers, neurons, strict=True)]),
            neuron_mean=torch.stack([moments.mean() for moments in neurons]),
        ),
    )


def _head_power(layer: Any, mixed: Moments) -> Tensor:
    out = layer.attention.output.dense.weight.float().cpu()
    size = int(layer.attention.self.attention_head_size)
    covariance = mixed.covariance()
    parts = [slice(start, start + size) for start in range(0, out.shape[1], size)]
    return torch.stack([((out[:, part] @ covariance[part, part]) * out[:, part]).sum() for part in parts])


def _neuron_power(layer: Any, active: Moments) -> Tensor:
    return active.variance() * layer.output.dense.weight.float().cpu().square().sum(0)


@contextmanager
def _recorded(layers: list[Any]) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Keeps what passes three places of every layer in the latest forward pass."""
    seen: dict[tuple[str, int], Tensor] = {}

    def keep(name: str, index: int, entering: bool) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name, index] = inputs[0] if entering else output

        return hook

    handles = []
    for index, layer in enumerate(layers):
        attention = layer.attention.output
        handles.append(attention.dense.register_forward_hook(keep("mixed", index, entering=True)))
        handles.append(attention.LayerNorm.register_forward_hook(keep("middle", index, entering=False)))
        handles.append(layer.output.dense.register_forward_hook(keep("active", index, entering=True)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class Moments:
    """Mean and covariance of rows that arrive in parts."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._square = torch.zeros((), dtype=torch.float64)

    def add(self, rows: Tensor, full: bool = True) -> None:
        """Add rows [n, d]; unless `full`, only variances can be told afterwards."""
        values = rows.float()
        self._count += len(values)
        self._sum = self._sum + values.sum(0).double().cpu()
        self._square = self._square + (values.T @ values if full else values.square().sum(0)).double().cpu()

    def mean(self) -> Tensor:
        """[d]."""
        return (self._sum / self._count).float()

    def covariance(self) -> Tensor:
        """[d, d]; all rows were added in full."""
        mean = self._sum / self._count
        return (self._square / self._count - torch.outer(mean, mean)).float()

    def variance(self) -> Tensor:
        """[d]; no row was added in full."""
        mean = self._sum / self._count
        return (self._square / self._count - mean.square()).clamp(min=0).float()
