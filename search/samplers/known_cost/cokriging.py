"""Final quality, learnt from trainings that were stopped at a rung as well as from whole ones.

Recursive co-kriging (Kennedy & O'Hagan 2000, Biometrika 87; Le Gratiet & Garnier 2014, arXiv 1210.0686). Quality at
the first rung is a Gaussian process of the configuration, and at each further one, and in the end,

    y_l(x) = a_l + b_l m_(l-1)(x) + c_l (y_(l-1)(x) - m_(l-1)(x)) + d_l(x)

with the expected quality m_(l-1) at the rung before, a line of Bayesian regression, and a Gaussian process d_l of what
the line leaves: which students the rung flatters and which it wrongs depends on their configuration, and is learnt
from those that went on. Many cheap trainings so tell where to look, and few whole ones what to make of them. How far a
trial is from what was expected of it is noise in part only; c_l, which the original has not, says in which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from search.samplers.known_cost.gaussian_process import GaussianProcess, settled
from search.samplers.known_cost.prior import ShiftedProcess

Process: TypeAlias = GaussianProcess | ShiftedProcess
# Of features [n, features] and standardised qualities [n] there, and the features [m, features] of what is running.
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], Process | None]

FEWEST = 4  # trials that have passed a rung, before it is modelled
# Of a line, in the expected quality and in a trial's own deviation from that: prior means and standard deviations,
# scaled by how much less qualities differ than before: else a rung that says nothing is believed in for too long.
SLOPES = (np.array([0.5, 0.25]), np.array([0.5, 0.5]))
PSEUDO = 2.0  # so many observations is the prior of a line's residual variance worth,
RESIDUAL = 0.25  # which is this share of the variance of the qualities
FEW = 3  # how much qualities differ is not asked of fewer than these:
LEAST = 0.1  # their variance is taken for this share of the first rung's then, as it is where they differ less


@dataclass(frozen=True)
class _Line:
    """a + b m + c e of Bayesian regression.

    Attributes:
        slopes: b, c.
        offset: a.
        middle: [2], the m and the e at which the offset is best known.
        uncertainty: [2, 2], covariance of the slopes.
        residual: standard deviation of what the line leaves.
    """

    slopes: np.ndarray
    offset: float
    middle: np.ndarray
    uncertainty: np.ndarray
    residual: float

    @classmethod
    def level(cls, y: np.ndarray) -> _Line:
        """What does not depend on anything, of the first observations: further ones leave it for a while."""
        y = y[: settled(len(y))]
        return cls(np.zeros(2), float(y.mean()), np.zeros(2), np.zeros((2, 2)), max(float(y.std()), 1e-6))

    @classmethod
    def through(cls, x: np.ndarray, y: np.ndarray, prior: float) -> _Line:
        """The line of points with x [n, 2] and y [n], with a prior of the residual variance."""
        # Equal qualities leave a little of it: they say no more than that little depends on the rung.
        scale = min(1.0, max(float(y.std() / max(x[:, 0].std(), 1e-6)), 1e-3)) if len(y) >= FEW else 1.0
        slopes, precisions = scale * SLOPES[0], np.diag((scale * SLOPES[1]) ** -2)
        apart, centred = x - x.mean(axis=0), y - y.mean()
        variance = prior
        for _ in range(10):
            weights = apart.T @ apart / variance + precisions
            found = np.linalg.solve(weights, apart.T @ centred / variance + precisions @ slopes)
            rest = centred - apart @ found
            variance = (PSEUDO * prior + float(rest @ rest)) / (PSEUDO + len(y))
        offset = float(y.mean() - x.mean(axis=0) @ found)
        return cls(found, offset, x.mean(axis=0), np.linalg.inv(weights), variance**0.5)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[m] at x [m, 2]."""
        return self.offset + x @ self.slopes

    def variances(self, x: np.ndarray) -> np.ndarray:
        """[m], of the line at x [m, 2], whose offset counts as known."""
        apart = x - self.middle
        return np.einsum("mi,ij,mj->m", apart, self.uncertainty, apart)


class CoKriging:
    """Predictions of final quality. Until a trial has finished, quality at the last rung stands for it.

    Args:
        x: features [n, features] of trials.
        qualities: [n, rungs + 1], at the rungs and in the end, NaN where there is none.
        running: [n], whether a trial is being trained; further qualities of such a one count as observed at their
            prediction.
        first, further: fit the process of the first rung, and those of what the lines leave.
    """

    def __init__(self, x: np.ndarray, qualities: np.ndarray, running: np.ndarray, first: Fit, further: Fit) -> None:
        self._levels: list[int] = []
        self._lines: list[_Line] = []
        self._processes: list[Process] = []
        for level, of_level in enumerate(qualities.T):
            observed = np.isfinite(of_level)
            last = level == qualities.shape[1] - 1
            if observed.sum() < (1 if last and self._processes else FEWEST):
                continue
            y, at, believed = of_level[observed], x[observed], x[running & ~observed]
            if self._processes:
                before = self._before(at, qualities[observed, :level])
                variance = float(y.var()) if len(y) >= FEW else 0.0
                least = LEAST * self._lines[0].residual ** 2
                line = _Line.through(before, y, RESIDUAL * max(variance, least, 1e-8))
            else:
                before, line = np.zeros((len(y), 2)), _Line.level(y)
            process = (further if self._processes else first)(at, (y - line(before)) / line.residual, believed)
            if process is None:
                break
            self._levels.append(level)
            self._lines.append(line)
            self._processes.append(process)

    def __bool__(self) -> bool:
        """Whether there is anything to predict from."""
        return bool(self._processes)

    def _before(self, x: np.ndarray, passed: np.ndarray) -> np.ndarray:
        """[n, 2]: what is expected at the last level so far, and how far each trial is from that."""
        means = self.mean(x, passed)
        own = passed[:, self._levels[-1]] - means
        return np.column_stack((means, np.nan_to_num(own)))

    def mean(self, x: np.ndarray, passed: np.ndarray | None = None) -> np.ndarray:
        """What `predict` expects, in a fraction of its time where x is long: [m]."""
        means, own = np.zeros(len(x)), np.zeros(len(x))
        for level, line, process in self._parts():
            means = line(np.column_stack((means, own))) + line.residual * process.mean(x)
            own = np.nan_to_num(_at(level, passed, len(x)) - means)
        return means

    def predict(self, x: np.ndarray, passed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Expected final qualities and their standard deviations, each [m].

        Args:
            x: features [m, features].
            passed: [m, rungs], qualities at the rungs that each has passed, NaN elsewhere.
        """
        means, variances = np.zeros(len(x)), np.zeros(len(x))
        own, unknown = np.zeros(len(x)), np.zeros(len(x))
        for level, line, process in self._parts():
            rest, deviations = process.predict(x)
            before = np.column_stack((means, own))
            means = line(before) + line.residual * rest
            variances = line.slopes[0] ** 2 * variances + line.slopes[1] ** 2 * unknown + line.variances(before)
            variances += (line.residual * deviations) ** 2
            here = _at(level, passed, len(x))
            own = np.nan_to_num(here - means)
            unknown = np.where(np.isfinite(here), 0.0, line.residual**2 * process.noise)
        return means, np.sqrt(np.maximum(variances, 1e-12))

    def _parts(self) -> Iterator[tuple[int, _Line, Process]]:
        return zip(self._levels, self._lines, self._processes, strict=True)

    def moves(self, x: np.ndarray) -> np.ndarray:
        """How far quality at the first rung is expected to move `predict`: standard deviations [m]. Nowhere, until
        something has gone on from there."""
        if len(self._processes) < 2:
            return np.zeros(len(x))
        _, deviations = self._processes[0].predict(x)
        total = deviations**2 + self._processes[0].noise
        expected = deviations**2 / total  # the share of a surprise that the process takes for the configuration's
        first, *others = self._lines[1:]
        moves = np.abs(first.slopes[0] * expected + first.slopes[1] * (1 - expected)) * np.sqrt(total)
        return moves * self._lines[0].residual * float(np.prod([abs(line.slopes[0]) for line in others]))


def _at(level: int, passed: np.ndarray | None, count: int) -> np.ndarray:
    """Qualities [count] at a level, NaN where they are not known."""
    if passed is None or level >= passed.shape[1]:
        return np.full(count, np.nan)
    return passed[:, level]
