"""Which texts are near each other by the sentence embedding of a pretrained teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runners.batches import encode
from runners.precision import training_device
from runners.task import Examples
from runners.teacher.infer import infer
from runners.teacher.model import Teacher, load_encoder

_BLOCK = 512  # rows of similarities at a time: bounds memory


def nearest_texts(
    left: Sequence[str], right: Sequence[str], count: int, folder: Path, tokenizer: Any, max_length: int
) -> npt.NDArray[np.int64]:
    """For each text of `left`, the places in `right` of its nearest texts, nearest first: int64 [left, count].

    Near is the cosine of mean-pooled last hidden states. They come from the pretrained model, not from the
    fine-tuned one, whose states tell labels apart rather than topics.

    Args:
        folder: of the pretrained encoder.
        tokenizer: of that folder.
        max_length: longest input in word pieces.
    """
    distinct = list(dict.fromkeys([*left, *right]))
    place = {text: index for index, text in enumerate(distinct)}
    device = training_device()
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        encoder = Teacher(load_encoder(folder, str(folder)), 1).to(device)
    encoded = encode(tokenizer, Examples(distinct, None, np.zeros(len(distinct), np.int64)), max_length)
    hidden = np.zeros((len(distinct), encoder.width), np.float16)
    logits = np.zeros((len(distinct), 1), np.float32)
    infer(encoder, encoded, device, logits, hidden, what="Teacher embeds texts to find near pairs")
    states = torch.from_numpy(hidden.astype(np.float32))
    states = torch.nn.functional.normalize(states - states.mean(0), dim=1)
    first = states[[place[text] for text in left]]
    second = states[[place[text] for text in right]]
    found = [torch.topk(part @ second.T, count, dim=1).indices for part in first.split(_BLOCK)]
    return torch.cat(found).numpy()
