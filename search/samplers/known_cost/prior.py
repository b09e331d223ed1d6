"""Qualities of older studies as a first idea of a new one's.

For every older study a Gaussian process is fitted to the normal scores of its qualities: of another task only the order
counts. Their means, weighted by the similarity of the tasks and by how well each orders the new study's trials, are one
function m; quality is modelled as a + b m(x) plus a Gaussian process, with b by ridge regression. Once there are enough
trials, m is left out wherever the trials are more probable without it, each predicted from the others.

Weighting older models by how they order new observations follows Feurer et al. 2018 (arXiv 1802.02219).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata, spearmanr

from search.samplers.known_cost.features import Features
from search.samplers.known_cost.gaussian_process import GaussianProcess, Scales, fit_scales
from search.samplers.known_cost.layout import Layout

FEWEST = 6  # older qualities that make a model
JUDGED = 5  # new trials from which on the older ones may be contradicted
RIDGE = 1.0


@dataclass(frozen=True)
class OlderQualities:
    """What an older study knows, in the new space.

    Attributes:
        similarity: of its task to the new one, from 0 to 1.
        params: flat parameters of its trials.
        qualities: by its own metric.
    """

    similarity: float
    params: Sequence[Mapping[str, Any]]
    qualities: Sequence[float]


class Prior:
    """The mean function; see the module.

    Args:
        sources: older studies. Trials that are no configuration of the space are left out.
    """

    def __init__(self, sources: Sequence[OlderQualities]) -> None:
        self._sources = sources
        self._models: list[tuple[float, GaussianProcess]] | None = None

    def model(self, layout: Layout, features: Features, costs: Any) -> PriorMean:
        """The function for a study; fitted once.

        Args:
            layout, features: of the study.
            costs: of rows, as `KnownCosts.costs`.
        """
        if self._models is None:
            self._models = []
            for source in self._sources:
                rows = [layout.row(params) for params in source.params]
                kept = [index for index, row in enumerate(rows) if row is not None]
                qualities = np.array([source.qualities[index] for index in kept])
                if len(kept) < FEWEST or np.ptp(qualities) == 0 or source.similarity <= 0:
                    continue
                matrix = np.array([rows[index] for index in kept])
                x = features(matrix, costs(matrix))
                scores = norm.ppf((rankdata(qualities) - 0.5) / len(qualities))
                scores = scores / scores.std()
                scales = fit_scales(x, scores, features.remoteness)
                self._models.append((source.similarity, GaussianProcess(x, scores, scales)))
        return PriorMean(self._models)


class PriorMean:
    """Expected normal scores by the older studies."""

    def __init__(self, models: Sequence[tuple[float, GaussianProcess]]) -> None:
        self._models = models

    def fitted(self, x: np.ndarray, y: np.ndarray) -> Shift | None:
        """What to add to a model of the new study's qualities; None if the older ones say nothing.

        Args:
            x: features [n, features] of the new trials.
            y: their qualities [n], standardised.
        """
        if not self._models or len(y) < 2:
            return None
        means = [model.mean(x) for _, model in self._models]
        weights = [weight * _order(mean, y) for (weight, _), mean in zip(self._models, means, strict=True)]
        if sum(weights) <= 0:
            return None
        shares = np.array(weights) / sum(weights)
        mixed = shares @ np.array(means)
        centred = mixed - mixed.mean()
        slope = float(centred @ (y - y.mean()) / (centred @ centred + RIDGE))
        if slope <= 0:
            return None
        return Shift([model for _, model in self._models], shares, slope, float(y.mean() - slope * mixed.mean()))


@dataclass(frozen=True)
class Shift:
    """a + b m(x), on the scale of the standardised qualities."""

    models: Sequence[GaussianProcess]
    shares: np.ndarray
    slope: float
    intercept: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[n] at features [n, features]."""
        return self.intercept + self.slope * (self.shares @ np.array([model.mean(x) for model in self.models]))


class ShiftedProcess:
    """A Gaussian process of what a shift leaves over; predicts both together.

    Args:
        process: of what is left over.
        shift: what was taken off.
        points: features [n + m, features] of its observed points and then of the believed ones.
    """

    def __init__(self, process: GaussianProcess, shift: Shift, points: np.ndarray) -> None:
        self._process = process
        self._shift = shift
        self._points = points

    @property
    def observed_means(self) -> np.ndarray:
        """As of `GaussianProcess`."""
        return self._process.observed_means + self._shift(self._points)

    @property
    def noise(self) -> float:
        """As of `GaussianProcess`."""
        return self._process.noise

    def mean(self, x: np.ndarray) -> np.ndarray:
        """As of `GaussianProcess`."""
        return self._process.mean(x) + self._shift(x)

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As of `GaussianProcess`."""
        mean, deviation = self._process.predict(x)
        return mean + self._shift(x), deviation


def agrees(x: np.ndarray, y: np.ndarray, scales: Scales, shift: Shift, shifted: Scales) -> bool:
    """Whether trials, each predicted from the others, are more probable with the older studies than without.

    Args:
        x, y: features [n, features] and standardised qualities [n] of the trials.
        scales: of a model without, fitted to them.
        shift: by the older studies.
        shifted: scales of a model of what the shift leaves over.
    """
    rest = y - shift(x)
    with_older = GaussianProcess(x, rest, shifted).left_out(rest)
    return with_older >= GaussianProcess(x, y, scales).left_out(y)


def _order(mean: np.ndarray, y: np.ndarray) -> float:
    """How well a model orders trials, from 0 to 1; half where there are too few to tell."""
    if len(y) < JUDGED or np.ptp(mean) == 0 or np.ptp(y) == 0:
        return 0.5
    return max(0.0, float(spearmanr(mean, y).statistic))
