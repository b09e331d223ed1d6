"""What a trial that was stopped early would have come to, foreseen from its quality at a rung.

Final quality is a line in the quality at the rung, fitted to the trials that went on to the end: Bayesian regression,
since there are few of them at first. They are the better ones of their rung, which is no harm: the line is conditional
on the rung's quality, by which alone they were chosen.
"""

from __future__ import annotations

import numpy as np

FEWEST = 3  # finished trials, before anything is foreseen
SLOPE = (0.5, 0.5)  # prior mean and standard deviation
PSEUDO = 2.0  # so many observations is the prior of the variance worth, which is that of the qualities themselves


def foresee(finished: np.ndarray, qualities: np.ndarray, stopped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected final qualities and their variances.

    Args:
        finished: [n, rungs], qualities of finished trials at the rungs, NaN where there is none.
        qualities: [n], their final qualities.
        stopped: [m, rungs], the same as `finished` of trials that were not finished.

    Returns:
        [m] and [m], NaN for trials of which nothing can be foreseen.
    """
    means = np.full(len(stopped), np.nan)
    variances = np.full(len(stopped), np.nan)
    last = np.where(np.isfinite(stopped), np.arange(stopped.shape[1]), -1).max(axis=1, initial=-1)
    for rung in range(stopped.shape[1]):
        wanted = np.flatnonzero(last == rung)
        usable = np.isfinite(finished[:, rung])
        if not len(wanted) or usable.sum() < FEWEST:
            continue
        means[wanted], variances[wanted] = _line(finished[usable, rung], qualities[usable], stopped[wanted, rung])
    return means, variances


def _line(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bayesian regression on one variable: predictions at [m] and the variances of a further observation there."""
    slope, precision = SLOPE[0], SLOPE[1] ** -2
    apart, centred = x - x.mean(), y - y.mean()
    prior = max(float(centred @ centred) / len(y), 1e-8)
    variance = prior
    for _ in range(10):
        weight = apart @ apart / variance + precision
        found = (apart @ centred / variance + slope * precision) / weight
        rest = centred - found * apart
        variance = (PSEUDO * prior + rest @ rest) / (PSEUDO + len(y))
    distance = at - x.mean()
    return y.mean() + found * distance, variance * (1 + 1 / len(y)) + distance**2 / weight
