"""Gaussian-process regression with a few dozen features and few observations.

The kernel is a Matern 5/2 plus that of Bayesian regression on every feature and its square, both with one length
scale l_d per feature d:

    k(x, y) = a (1 + s + s^2 / 3) exp(-s) + b sum_d (x_d y_d + x'_d y'_d) / l_d^2,
    s^2 = 5 sum_d (x_d - y_d)^2 / l_d^2,  x'_d = (x_d^2 - 1) / 2

and the observations have independent noise of variance c. Most of what makes a student good adds up, each part with
an optimum or a slope of its own: the second term learns that from few observations, the first one the rest. Length
scales and variances are those of the highest posterior density under log-normal priors; the length scales' median
grows with the square root of the number of features (Hvarfner et al. 2024, arXiv 2402.02229), which keeps a model
of few observations from being sure of itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

# Priors of the logarithms: mean, standard deviation. Observations are standardised.
LENGTH_SPREAD = 0.75
SMOOTH_VARIANCE = (np.log(0.5), 1.0)
REGRESSION_VARIANCE = (np.log(0.5), 1.0)
NOISE_VARIANCE = (np.log(0.05), 1.0)
SMALLEST_NOISE = 1e-3
ITERATIONS = 30
AT_ONCE = 32_768  # entries of a covariance that are computed at once


@dataclass(frozen=True)
class Scales:
    """What a kernel is made of.

    Attributes:
        lengths: [features].
        smooth: variance of the Matern kernel.
        regression: variance of the regression on features and squares.
        noise: variance of an observation.
    """

    lengths: np.ndarray
    smooth: float
    regression: float
    noise: float

    @classmethod
    def of(cls, logarithms: np.ndarray) -> Scales:
        smooth, regression, noise = np.exp(logarithms[-3:])
        return cls(np.exp(logarithms[:-3]), float(smooth), float(regression), float(noise) + SMALLEST_NOISE)


def fit_scales(x: np.ndarray, y: np.ndarray, remoteness: np.ndarray) -> Scales:
    """The most probable scales.

    Args:
        x: features [n, features], standardised.
        y: observations [n], with mean 0 and variance 1.
        remoteness: [features], by how much the logarithm of a length scale is expected to differ from that of the
            others: larger for features that are expected to matter less.
    """
    features = x.shape[1]
    mean = np.concatenate((remoteness + 0.5 * np.log(features), np.zeros(3)))
    spread = np.full(features + 3, LENGTH_SPREAD)
    for place, (middle, width) in enumerate((SMOOTH_VARIANCE, REGRESSION_VARIANCE, NOISE_VARIANCE), start=features):
        mean[place], spread[place] = middle, width
    diagonal = np.diag_indices(len(y))
    squares_of_x = _squares(x)

    def loss(logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        scales = Scales.of(logarithms)
        scaled, squares = x / scales.lengths, squares_of_x / scales.lengths
        products = scaled @ scaled.T
        s = _distances(products, *2 * [products[diagonal]])
        products += squares @ squares.T
        decay = np.exp(-s)
        rising = 1 + s
        matern = (rising + s * s / 3) * decay
        covariance = scales.smooth * matern + scales.regression * products
        covariance[diagonal] += scales.noise
        factor = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        weights = cho_solve((factor, True), y, check_finite=False)
        deviation = (logarithms - mean) / spread
        value = 0.5 * y @ weights + np.log(factor[diagonal]).sum() + 0.5 * deviation @ deviation
        # The derivative by the covariance; below, d matern / d log l_d = (5/3) (1 + s) exp(-s) (x_d - y_d)^2 / l_d^2.
        outer = 0.5 * (_inverse(factor) - np.outer(weights, weights))
        slope = outer * rising
        slope *= decay
        slope *= scales.smooth * 5 / 3
        by_length = slope.sum(axis=1) @ scaled**2
        slope += scales.regression * outer
        by_length -= _forms(slope, scaled) + scales.regression * _forms(outer, squares)
        gradient = deviation / spread
        gradient[:features] += 2 * by_length
        gradient[features] += scales.smooth * np.vdot(outer, matern)
        gradient[features + 1] += scales.regression * np.vdot(outer, products)
        gradient[features + 2] += (scales.noise - SMALLEST_NOISE) * outer[diagonal].sum()
        return float(value), gradient

    bounds = [(middle - 5 * width, middle + 5 * width) for middle, width in zip(mean, spread, strict=True)]
    found = minimize(loss, mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ITERATIONS})
    return Scales.of(found.x)


class GaussianProcess:
    """Predictions from observations.

    Args:
        x: features [n, features].
        y: observations [n], standardised.
        scales: of the kernel.
        believed: features [m, features] of points that count as observed at their prediction.
        factor: `first_factor` of the first of x, where that is known.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        scales: Scales,
        believed: np.ndarray | None = None,
        factor: np.ndarray | None = None,
    ) -> None:
        self._scales = scales
        self._factor = first_factor(x, scales) if factor is None else factor
        self._x = x[: len(self._factor)]
        self._append(x[len(self._factor) :])
        self._weigh(y)
        if believed is not None and len(believed):
            y = np.concatenate((y, self.mean(believed)))
            self._append(believed)
            self._weigh(y)

    def _append(self, x: np.ndarray) -> None:
        """Go on with the Cholesky factor, by the rows of further points."""
        if not len(x):
            return
        known, count = len(self._x), len(self._x) + len(x)
        solved = solve_triangular(self._factor, self._covariance(x), lower=True, overwrite_b=True, check_finite=False)
        rest = _of_observations(x, self._scales)
        # What the first points explain is taken off its lower half alone, which is all that the factor is made of.
        rest = dsyrk(-1.0, solved, beta=1.0, c=rest, trans=True, lower=True, overwrite_c=True)
        factor = np.zeros((count, count), order="F")
        factor[:known, :known] = self._factor
        factor[known:, :known] = solved.T
        factor[known:, known:] = cholesky(rest, lower=True, overwrite_a=True, check_finite=False)
        self._x, self._factor = np.concatenate((self._x, x)), factor

    def _weigh(self, y: np.ndarray) -> None:
        self._weights = cho_solve((self._factor, True), y, check_finite=False)
        self._observed_means = y - self._scales.noise * self._weights

    @property
    def observed_means(self) -> np.ndarray:
        """`mean` at the observed points and then at the believed ones, [n + m], for nothing.

        With the covariance K of the points and the variance c of the noise, weights w = (K + c)^-1 y: K w = y - c w.
        """
        return self._observed_means

    @property
    def noise(self) -> float:
        """Variance of the observations' noise."""
        return self._scales.noise

    def left_out(self, y: np.ndarray) -> float:
        """Logarithm of the probability density of the observations [n], each predicted from all others, in sum.

        Rasmussen & Williams 2006, section 5.4.2.
        """
        inverse = np.diag(_inverse(self._factor))
        return float(0.5 * (np.log(inverse) - self._weights**2 / inverse - np.log(2 * np.pi)).sum())

    def _covariance(self, x: np.ndarray) -> np.ndarray:
        """Covariance [n, m] of the observed points and those at features [m, features]."""
        return _covariance(self._x, x, self._scales)

    def mean(self, x: np.ndarray) -> np.ndarray:
        """Expected values [m] at features [m, features], without noise."""
        return self._weights @ self._covariance(x)

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected values and standard deviations, each [m], of the values without noise."""
        covariance = self._covariance(x)
        means = self._weights @ covariance  # before the solution takes its place
        solved = solve_triangular(self._factor, covariance, lower=True, overwrite_b=True, check_finite=False)
        scales = self._scales
        prior = scales.smooth + scales.regression * ((x * x + _squares(x) ** 2) / scales.lengths**2).sum(axis=1)
        variance = prior - np.einsum("nm,nm->m", solved, solved)
        return means, np.sqrt(np.maximum(variance, 1e-10))


def settled(count: int) -> int:
    """How many of so many observations, the first ones, a model's scales are fitted to: all at first, then rarely more.

    They standardise the observations, too, and begin the factor, so that all of it stays as it is for a while.
    """
    return count - count % (1 if count < 64 else 4 if count < 256 else 16)


def first_factor(x: np.ndarray, scales: Scales) -> np.ndarray:
    """Cholesky factor [n, n] of the covariance of observations at features [n, features]; lower."""
    covariance = _of_observations(x, scales)
    factor: np.ndarray = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
    return factor


def _of_observations(x: np.ndarray, scales: Scales) -> np.ndarray:
    """Covariance [n, n] of observations at features [n, features], with their noise."""
    covariance = _covariance(x, x, scales)
    covariance[np.diag_indices_from(covariance)] += scales.noise
    return covariance


def _covariance(x: np.ndarray, others: np.ndarray, scales: Scales) -> np.ndarray:
    """Covariance [n, m] of points at features [n, features] and [m, features], column by column in memory."""
    mine, other = x / scales.lengths, others / scales.lengths
    squares, of_other = _squares(x) / scales.lengths, _squares(others) / scales.lengths
    mine_squared, other_squared = (mine * mine).sum(axis=1), (other * other).sum(axis=1)
    found = np.empty((len(others), len(x)))
    # So few rows at once that what is computed of them stays in the processor's cache.
    step = max(1, AT_ONCE // max(1, len(x)))
    for start in range(0, len(others), step):
        part = slice(start, start + step)
        products = other[part] @ mine.T
        s = _distances(products, other_squared[part], mine_squared)
        products += of_other[part] @ squares.T
        products *= scales.regression
        rising = s / 3
        rising += 1
        rising *= s
        rising += 1
        np.negative(s, out=s)
        np.exp(s, out=s)
        s *= rising
        s *= scales.smooth
        np.add(products, s, out=found[part])
    return found.T


def _distances(products: np.ndarray, squared: np.ndarray, other_squared: np.ndarray) -> np.ndarray:
    """Distances [n, m], times the square root of 5, of points with these scalar products [n, m] and squared lengths
    [n] and [m]."""
    s = products * -2
    s += squared[:, None]
    s += other_squared
    np.maximum(s, 0, out=s)
    s *= 5
    return np.sqrt(s, out=s)


def _inverse(factor: np.ndarray) -> np.ndarray:
    """Inverse [n, n] of the matrix of a lower Cholesky factor."""
    lower, _ = dpotri(factor, lower=True)  # above the diagonal the factor's zeros stay
    inverse = lower + lower.T
    np.fill_diagonal(inverse, np.diag(lower))
    return inverse


def _squares(x: np.ndarray) -> np.ndarray:
    return 0.5 * (x * x - 1)


def _forms(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x_d^T matrix x_d for every column x_d of x [n, features]."""
    return ((matrix @ x) * x).sum(axis=0)
