"""One pass of a fine-tuned teacher over a split."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runners.batches import Encoded, collate, sorted_batches
from runners.byte_rows import ByteRows
from runners.precision import autocast
from runners.progress import ProgressLines
from runners.teacher.model import Teacher

_log = logging.getLogger("shoebox.runners.teacher")
_MAX_TOKENS = 4096
_MAX_ATTENTION_BYTES = 512 * 2**20


@torch.inference_mode()
def infer(
    teacher: Teacher,
    encoded: Encoded,
    device: torch.device,
    logits: npt.NDArray[Any],
    hidden: npt.NDArray[np.float16] | ByteRows | None = None,
    attention: npt.NDArray[np.float64] | None = None,
    what: str = "Teacher reads the train split",
) -> None:
    """Fill `logits` [n, outputs] and, where given, `hidden` [n, width] and `attention` [vocabulary].

    Where words are labelled, n is their number; those without a piece get logits of NaN.

    `attention` becomes EI-BERT's score of vocabulary entries (Wang et al. 2025, arXiv 2507.04636):
    s(v) = 1/(L S H) * sum over sentences, layers and heads of the attention that occurrences of v receive.
    The sum over occurrences (not their mean, which the paper leaves open) favours frequent entries, as a
    vocabulary should. Queries and keys are real tokens only; special tokens get scores like any other.

    `what` is said in lines of progress.
    """
    config: Any = teacher.encoder.config
    per_square = 4 * int(config.num_hidden_layers * config.num_attention_heads)
    squares = _MAX_ATTENTION_BYTES // per_square if attention is not None else _MAX_TOKENS * 512
    encoder: Any = teacher.encoder
    usual = encoder.config._attn_implementation
    if attention is not None:  # the fast kernels do not hand out their weights
        encoder.set_attn_implementation("eager")
    teacher.eval()
    received = None if attention is None else torch.zeros(len(attention), dtype=torch.float64, device=device)
    progress = ProgressLines(_log, what, float(encoded.lengths.sum()))
    done = 0
    if encoded.words is not None:
        logits[~encoded.words.answered] = np.nan
    for rows in sorted_batches(encoded.lengths, _MAX_TOKENS, squares):
        batch = collate(encoded, rows, device)
        with autocast(device):
            found = teacher.encode(batch, attentions=attention is not None)
        picked = None if encoded.words is None else encoded.words.pick(rows)
        numbers = rows if picked is None else picked.words
        values, pooled = teacher.pool(found.last_hidden_state, batch["attention_mask"], picked)
        logits[numbers] = values.cpu().numpy()
        if hidden is not None:
            hidden[numbers] = pooled.cpu().numpy().astype(np.float16)
        if received is not None:
            _add_attention(received, found.attentions, batch)
        done += int(encoded.lengths[rows].sum())
        progress.update(done)
    if attention is not None and received is not None:
        layers, heads = len(found.attentions), found.attentions[0].shape[1]
        attention[:] = received.cpu().numpy() / (layers * heads * len(encoded))
        encoder.set_attn_implementation(usual)


def _add_attention(received: Tensor, attentions: tuple[Tensor, ...], batch: dict[str, Tensor]) -> None:
    mask = batch["attention_mask"].float()
    per_token = torch.zeros_like(mask)
    for weights in attentions:  # [batch, heads, queries, keys]
        per_token += torch.einsum("bhqk,bq->bk", weights.float(), mask)
    real = mask.bool()
    received.index_add_(0, batch["input_ids"][real], per_token[real].double())
