"""Linear probes of a teacher's layers: what each of them knows of the label."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from runners.lessons import WordStates

_EPOCHS = 5  # as in the paper
_BATCH = 256
_LEARNING_RATE = 1e-2


def text_states(words: WordStates) -> npt.NDArray[np.float32]:
    """Mean state of each text's words, [texts, layers, components]; zeros where a text has none."""
    found = np.zeros((len(words), *words.scale.shape), np.float32)
    starts = np.asarray(words.starts)
    for first in range(0, len(words), 4096):
        last = min(first + 4096, len(words))
        values = np.asarray(words.values[starts[first] : starts[last]], np.float32)
        before = np.concatenate((np.zeros((1, *words.scale.shape), np.float64), values.cumsum(0, dtype=np.float64)))
        own = starts[first : last + 1] - starts[first]
        counts = np.maximum(np.diff(own), 1)[:, None, None]
        found[first:last] = (before[own[1:]] - before[own[:-1]]) / counts * words.scale
    return found


def probe_logits(
    words: WordStates,
    labels: npt.NDArray[np.int64],
    outputs: int,
    teacher_logits: npt.NDArray[np.float32],
    generator: torch.Generator,
) -> npt.NDArray[np.float32]:
    """Logits [texts, layers, outputs] of a linear classifier on each kept layer of the frozen teacher.

    The paper trains a probe on every layer. Here they are trained on the layers and components of the words' states
    that the cache holds (`runners.teacher.words`), averaged over a text; the last layer has the teacher's own answers.

    Args:
        words: the teacher's states of the words of each text.
        labels: of each text.
        outputs: classes.
        teacher_logits: [texts, outputs].
        generator: of the order of texts.
    """
    states = torch.from_numpy(text_states(words))
    states = (states - states.mean(0)) / states.std(0).clamp(min=1e-6)
    truth = torch.from_numpy(np.array(labels))
    texts, layers, components = states.shape
    weight = nn.Parameter(torch.zeros(layers - 1, components, outputs))
    bias = nn.Parameter(torch.zeros(layers - 1, 1, outputs))
    answers = np.empty((texts, layers, outputs), np.float32)
    answers[:, -1] = teacher_logits
    if layers == 1:
        return answers
    optimizer = torch.optim.Adam([weight, bias], lr=_LEARNING_RATE)
    states = states[:, :-1].transpose(0, 1)  # [layers - 1, texts, components]
    for _ in range(_EPOCHS):
        for rows in torch.randperm(texts, generator=generator).split(_BATCH):
            found = states[:, rows] @ weight + bias
            loss = functional.cross_entropy(found.flatten(0, 1), truth[rows].repeat(layers - 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        answers[:, :-1] = (states @ weight + bias).transpose(0, 1).numpy()
    return answers
