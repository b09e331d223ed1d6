"""Task quality: one number per metric, higher is better, computed from logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats
from seqeval.metrics import f1_score as entity_f1_score
from sklearn import metrics

Metric = Literal["accuracy", "f1", "matthews", "pearson", "spearman", "entity_f1"]
METRICS: tuple[Metric, ...] = get_args(Metric)
REGRESSION_METRICS: frozenset[Metric] = frozenset({"pearson", "spearman"})
TAG_METRICS: frozenset[Metric] = frozenset({"entity_f1", "accuracy"})
OUTSIDE = "O"  # the tag of a word that is part of no entity


def score(metric: Metric, labels: npt.ArrayLike, logits: npt.ArrayLike, regression: bool) -> float:
    """Quality of a model's logits on labelled examples.

    - accuracy: share of examples whose largest logit is the label.
    - f1: F1 of label 1, for two labels (GLUE's F1); 0.0 where neither truth nor prediction has a 1.
    - matthews: Matthews correlation, any number of labels; 0.0 where all predictions or labels are the same.
    - pearson, spearman: correlation of the only logit with the label; a constant side has no correlation,
      and a model that always says the same has found nothing, so the value is 0.0 and not NaN.

    Args:
        metric: one of `METRICS`.
        labels: [n], class indices, or real values for a regression.
        logits: [n, outputs]; for a regression [n, 1] or [n].
        regression: whether the labels are real values.

    Raises:
        ValueError: unknown metric, metric of the other kind of task, shapes that do not match, no example,
            a logit or label that is not finite.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    if metric == "entity_f1" or (metric in REGRESSION_METRICS) != regression:
        raise ValueError(f"metric {metric} does not fit a {'regression' if regression else 'classification'}")
    truth = np.asarray(labels)
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if truth.ndim != 1 or values.ndim != 2 or len(truth) != len(values) or len(truth) == 0:
        raise ValueError(f"labels {truth.shape} and logits {values.shape} must be [n] and [n, outputs], n >= 1")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).any(axis=1).sum())} of {len(values)} logits are not finite")
    if regression:
        if values.shape[1] != 1:
            raise ValueError(f"a regression has one output, not {values.shape[1]}")
        if not np.isfinite(truth).all():
            raise ValueError("labels are not finite")
        return _CORRELATIONS[metric](truth.astype(np.float64), values[:, 0])
    if values.shape[1] < 2:
        raise ValueError("a classification has at least two outputs")
    if metric == "f1" and values.shape[1] != 2:
        raise ValueError(f"f1 is for two labels, not {values.shape[1]}")
    predicted = values.argmax(axis=1)
    if metric == "accuracy":
        return float(metrics.accuracy_score(truth, predicted))
    if metric == "f1":
        return float(metrics.f1_score(truth, predicted, pos_label=1, average="binary", zero_division=0.0))
    if np.ptp(truth) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(metrics.matthews_corrcoef(truth, predicted))


def score_tags(
    metric: Metric,
    labels: npt.ArrayLike,
    logits: npt.ArrayLike,
    starts: Sequence[int] | npt.NDArray[np.int64],
    names: Sequence[str],
) -> float:
    """Quality of a model's logits on the words of tagged sentences.

    - entity_f1: F1 of whole entities, micro-averaged over their types, as `seqeval` and the conlleval script before
      it count: an entity is right if its words and its type are; a predicted `I-X` after `O` opens an entity. 0.0
      where neither truth nor prediction has an entity.
    - accuracy: share of words whose largest logit is the label.

    A word whose logits are NaN got no answer, because the text was cut before it or because it has no word piece: it
    counts as `O` among entities, and as wrong in accuracy.

    Args:
        metric: one of `TAG_METRICS`.
        labels: [words], indices of tags.
        logits: [words, tags].
        starts: [sentences + 1], where the words of each sentence begin.
        names: of the tags.

    Raises:
        ValueError: unknown metric, shapes that do not match, no word, a logit that is infinite, no tag `O`.
    """
    if metric not in TAG_METRICS:
        raise ValueError(f"metric {metric!r} does not fit tags; known: {', '.join(sorted(TAG_METRICS))}")
    truth, values = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    if values.shape != (len(truth), len(names)) or len(truth) == 0 or starts[-1] != len(truth):
        raise ValueError(f"{len(names)} tags, labels {truth.shape}, logits {values.shape}, {starts[-1]} words differ")
    answered = ~np.isnan(values).all(axis=1)
    if not np.isfinite(values[answered]).all():
        raise ValueError("logits are not finite")
    predicted = np.where(answered, np.nan_to_num(values).argmax(axis=1), -1)
    if metric == "accuracy":
        return float(metrics.accuracy_score(truth, predicted))
    predicted[~answered] = list(names).index(OUTSIDE)
    table = np.array(names, dtype=object)
    sentences = [slice(first, last) for first, last in pairwise(starts)]
    found = entity_f1_score(
        [table[truth[words]].tolist() for words in sentences],
        [table[predicted[words]].tolist() for words in sentences],
        zero_division=0,
    )
    return float(found)


def _pearson(truth: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> float:
    if _constant(truth) or _constant(predicted):
        return 0.0
    return float(np.clip(stats.pearsonr(truth, predicted).statistic, -1.0, 1.0))


def _spearman(truth: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> float:
    if _constant(truth) or _constant(predicted):
        return 0.0
    return float(np.clip(stats.spearmanr(truth, predicted).statistic, -1.0, 1.0))


def _constant(values: npt.NDArray[np.float64]) -> bool:
    """Constant up to rounding: a spread of a few units in the last place would correlate with anything."""
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))


_CORRELATIONS: dict[str, Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], float]] = {
    "pearson": _pearson,
    "spearman": _spearman,
}
