"""What a teacher says of transfer text, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runners.task import Task
from space.errors import InputError

_QUANTILES = (0, 10, 25, 50, 75, 90, 100)
_SHOWN = 5  # classes, the most frequent first


def describe_scores(
    logits: npt.NDArray[Any], kinds: Sequence[str], counts: npt.NDArray[np.int64], task: Task
) -> dict[str, str]:
    """By kind of text, and for all: the share of each class with the mean confidence, or quantiles of a regression.

    Args:
        logits: floats [n, outputs], of texts or of words; NaN for a word that was not seen.
        kinds: of each text.
        counts: int64, how many rows of the logits each text has.
        task: names the classes.
    """
    distinct = list(dict.fromkeys(kinds))
    numbers = {kind: number for number, kind in enumerate(distinct)}
    rows_kind = np.repeat(np.array([numbers[kind] for kind in kinds], np.int32), counts)
    if task.per_token:
        seen = ~np.isnan(logits[:, 0])
        if not seen.any():
            raise InputError("Transfer text has no word that the teacher can read.", "Change transfer.sources.")
        logits, rows_kind = logits[seen], rows_kind[seen]
    groups = {"all": np.arange(len(logits))}
    if len(distinct) > 1:
        found = ((kind, np.flatnonzero(rows_kind == number)) for kind, number in numbers.items())
        groups.update({kind: rows for kind, rows in found if len(rows)})
    describe = _quantiles if task.label_names is None else _shares
    return {kind: describe(np.asarray(logits[rows], np.float32), task) for kind, rows in groups.items()}


def _quantiles(logits: npt.NDArray[np.float32], task: Task) -> str:
    values = np.percentile(logits[:, 0], _QUANTILES)
    return ", ".join(f"{value:.2f} ({part} %)" for part, value in zip(_QUANTILES, values, strict=True))


def _shares(logits: npt.NDArray[np.float32], task: Task) -> str:
    assert task.label_names is not None
    exponent = np.exp(logits - logits.max(1, keepdims=True))
    confidence = float((exponent.max(1) / exponent.sum(1)).mean())
    shares = np.bincount(logits.argmax(1), minlength=logits.shape[1]) / len(logits)
    order = np.argsort(-shares, kind="stable")
    shown = [f"{task.label_names[index]} {100 * shares[index]:.0f} %" for index in order[:_SHOWN]]
    if len(order) > _SHOWN:
        shown.append(f"{len(order) - _SHOWN} other labels")
    return f"{', '.join(shown)} (mean confidence {confidence:.2f})"
