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
from scipy.optimize import minimize

# Priors of the logarithms: mean, standard deviation. Observations are standardised.
LENGTH_SPREAD = 0.75
SMOOTH_VARIANCE = (np.log(0.5), 1.0)
REGRESSION_VARIANCE = (np.log(0.5), 1.0)
NOISE_VARIANCE = (np.log(0.05), 1.0)
SMALLEST_NOISE = 1e-3
ITERATIONS = 30


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

    def loss(logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        scales = Scales.of(logarithms)
        scaled, squares = x / scales.lengths, _squares(x) / scales.lengths
        s = np.sqrt(5 * _squared_distances(scaled, scaled))
        decay = np.exp(-s)
        matern = (1 + s + s * s / 3) * decay
        products = scaled @ scaled.T + squares @ squares.T
        covariance = scales.smooth * matern + scales.regression * products
        covariance[np.diag_indices_from(covariance)] += scales.noise
        factor = cholesky(covariance, lower=True, check_finite=False)
        weights = cho_solve((factor, True), y, check_finite=False)
        inverse = cho_solve((factor, True), np.eye(len(y)), check_finite=False)
        deviation = (logarithms - mean) / spread
        value = 0.5 * y @ weights + np.log(np.diag(factor)).sum() + 0.5 * deviation @ deviation
        # The derivative by the covariance; below, d matern / d log l_d = (5/3) (1 + s) exp(-s) (x_d - y_d)^2 / l_d^2.
        outer = 0.5 * (inverse - np.outer(weights, weights))
        slope = outer * (scales.smooth * 5 / 3) * (1 + s) * decay
        by_length = slope.sum(axis=1) @ scaled**2 - _forms(slope, scaled)
        by_length -= scales.regression * (_forms(outer, scaled) + _forms(outer, squares))
        gradient = deviation / spread
        gradient[:features] += 2 * by_length
        gradient[features] += scales.smooth * (outer * matern).sum()
        gradient[features + 1] += scales.regression * (outer * products).sum()
        gradient[features + 2] += (scales.noise - SMALLEST_NOISE) * np.trace(outer)
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
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, scales: Scales, believed: np.ndarray | None = None) -> None:
        self._scales = scales
        self._observe(x, y)
        if believed is not None and len(believed):
            self._observe(np.concatenate((x, believed)), np.concatenate((y, self.mean(believed))))

    def _observe(self, x: np.ndarray, y: np.ndarray) -> None:
        self._x = x
        covariance = self._covariance(x)
        covariance[np.diag_indices_from(covariance)] += self._scales.noise
        self._factor = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
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
        inverse = np.diag(cho_solve((self._factor, True), np.eye(len(y)), check_finite=False))
        return float(0.5 * (np.log(inverse) - self._weights**2 / inverse - np.log(2 * np.pi)).sum())

    def _covariance(self, x: np.ndarray) -> np.ndarray:
        """Covariance [n, m] of the observed points and those at features [m, features]."""
        scales = self._scales
        mine, other = self._x / scales.lengths, x / scales.lengths
        s = np.sqrt(5 * _squared_distances(mine, other))
        covariance = scales.smooth * (1 + s + s * s / 3) * np.exp(-s)
        products = mine @ other.T + (_squares(self._x) / scales.lengths) @ (_squares(x) / scales.lengths).T
        return covariance + scales.regression * products

    def mean(self, x: np.ndarray) -> np.ndarray:
        """Expected values [m] at features [m, features], without noise."""
        return self._weights @ self._covariance(x)

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected values and standard deviations, each [m], of the values without noise."""
        covariance = self._covariance(x)
        solved = solve_triangular(self._factor, covariance, lower=True, check_finite=False)
        scales = self._scales
        prior = scales.smooth + scales.regression * ((x * x + _squares(x) ** 2) / scales.lengths**2).sum(axis=1)
        variance = prior - np.einsum("nm,nm->m", solved, solved)
        return self._weights @ covariance, np.sqrt(np.maximum(variance, 1e-10))


def _squares(x: np.ndarray) -> np.ndarray:
    return 0.5 * (x * x - 1)


def _forms(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x_d^T matrix x_d for every column x_d of x [n, features]."""
    return ((matrix @ x) * x).sum(axis=0)


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2 * x @ y.T
    return np.maximum(squares, 0.0)
