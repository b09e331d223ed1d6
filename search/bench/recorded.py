"""A problem made of real trials, for any configuration of their space.

A sampler proposes points of a space of more than 10^15 configurations, of which a table can hold some hundred. To
choose among the rows alone would spoil the comparison: 200 random trials of 300 rows are most of the best ones, and
what is best among noisy rows is luck that no sampler can learn. So the table is answered by a surrogate, as in the
benchmarks of Eggensperger et al. (2015), YAHPO Gym (Pfisterer et al. 2022, arXiv 2109.03670) and JAHS-Bench-201 (Bansal
et al. 2022): regression of quality at each rung, fitted to the rows, with the noise that repeated trainings had.
`crossvalidated` says how well it foretells rows that it has not seen. Bytes and latency need no surrogate: they are
computed, as in a real study.

The regression is the mean of two kinds that err differently, extremely randomised trees (two thirds) and support
vectors: neither is the Gaussian process of the known-cost sampler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from objectives.latency import LatencyModel, load_profile
from search.bench.recording import RecordedTrial
from search.bench.table import shipped_recording
from search.samplers.known_cost.layout import Layout
from search.study_file import StudyFile
from space.families import model_bytes
from space.joint import JointSpace

REFERENCE = {"quality": 0.5, "latency_ms": 10.0, "long_latency_ms": 40.0}
FOLDS = 10
TREES, LEAF = 200, 3
PENALTY, SHARPNESS = 1.0, 0.5  # of the support vectors


@dataclass(frozen=True)
class Fit:
    """How well a surrogate foretells rows that it was not fitted to.

    Attributes:
        error: root of the mean squared error.
        rank_correlation: Spearman's.
        explained: share of the variance.
        noise: standard deviation of a training's quality about its configuration's mean.
    """

    error: float
    rank_correlation: float
    explained: float
    noise: float


class RecordedProblem:
    """A recording as a problem.

    Args:
        name: one of the recordings that come with Shoebox (`search.bench.table.STUDIES`).
        objectives: quality and any of deployed_bytes, latency_ms, long_latency_ms.
    """

    def __init__(self, name: str, objectives: tuple[str, ...] = ("quality", "latency_ms")) -> None:
        self.name = name
        self.recording = shipped_recording(name)
        setting = self.recording.setting
        file = StudyFile.model_validate(setting.study)
        self.space = JointSpace(file.space)
        self.objectives = objectives
        self.rungs = setting.rungs
        limit = float(file.limits.deployed_bytes)
        self.limits: dict[str, float] = {"deployed_bytes": limit}
        self.reference = {name: {**REFERENCE, "deployed_bytes": limit}[name] for name in objectives}
        self._latency = LatencyModel(load_profile(file.device.profile), setting.estimates)
        self._vocabulary = {kept.keep: kept for kept in setting.vocabulary}
        self._layout = Layout(self.space)
        self._known: dict[tuple[tuple[str, Any], ...], np.ndarray] = {}
        self._deviations = self._noise()
        rows = self._features([trial.params for trial in self.recording.trials])
        self._model = _Blend(rows, self._targets(self.recording.trials))

    @staticmethod
    def _targets(trials: Sequence[RecordedTrial]) -> np.ndarray:
        """[trials, rungs + 1]: quality at each rung, and the logarithm of the seconds of training."""
        return np.array([[*trial.rungs, np.log(trial.rung_seconds[-1])] for trial in trials])

    def _features(self, params: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """[n, features]: positions of all parameters, means over the layers, logarithms of the costs."""
        rows = np.array([self._layout.row(each) for each in params], dtype=float)
        groups = [columns for columns in self._layout.groups().values() if len(columns) > 1]
        means = [np.nanmean(rows[:, columns], axis=1) for columns in groups]
        costs = np.log([list(self.costs(each).values()) for each in params])
        middle = np.array([(self._layout.levels(column) - 1) / 2 or 0.5 for column in range(len(self._layout))])
        return np.column_stack((np.where(np.isnan(rows), middle, rows), *means, costs))

    def _noise(self) -> np.ndarray:
        """[pairs, rungs]: of each repeated training, how far it is from the mean of a training and its repetition.

        Scaled so that a row drawn with a random sign has the covariance of one training about the mean of many.
        """
        differences = [np.subtract(first.rungs, second.rungs) for first, second in self.recording.pairs()]
        return np.array(differences) / np.sqrt(2)

    def costs(self, params: Mapping[str, Any]) -> dict[str, float]:
        """Exact bytes, and milliseconds by the latency model."""
        config = self.space.config_from(params)
        kept, shape = self._vocabulary[config.vocabulary_keep], self.recording.setting.shape
        short, long = (
            self._latency.predict(config, shape, kept.entries, tokens).milliseconds for tokens in kept.lengths
        )
        size = model_bytes(config, shape, kept.entries) + kept.file_bytes
        return {"deployed_bytes": float(size), "latency_ms": short, "long_latency_ms": long}

    def _answers(self, params: Mapping[str, Any]) -> np.ndarray:
        """[rungs + 1], as `_targets`."""
        key = tuple(sorted(params.items()))
        if key not in self._known:
            self._known[key] = self._model(self._features([params]))[0]
        return self._known[key]

    def quality(self, params: Mapping[str, Any]) -> float:
        """Accuracy on the validation split that a training comes to on average."""
        return float(self._answers(params)[-2])

    def evaluate(self, params: Mapping[str, Any], seed: int) -> tuple[float, ...]:
        """The same at each rung with noise, which is that of one of the repeated trainings."""
        generator = np.random.default_rng(seed)
        sign = 1 if generator.random() < 0.5 else -1
        drawn = self._deviations[int(generator.integers(len(self._deviations)))]
        return tuple((self._answers(params)[:-1] + sign * drawn).tolist())

    def seconds(self, params: Mapping[str, Any]) -> float:
        """Processor seconds of a training on one thread, without judging it."""
        return float(np.exp(self._answers(params)[-1]))

    def crossvalidated(self) -> list[Fit]:
        """How well the surrogate foretells the quality at each rung of rows that are left out, in ten parts.

        A repetition is left out together with what it repeats.
        """
        trials = self.recording.configurations()
        rows, targets = self._features([trial.params for trial in trials]), self._targets(trials)
        foretold = np.empty_like(targets)
        for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(rows):
            foretold[test] = _Blend(rows[train], targets[train])(rows[test])
        found = []
        for rung in range(len(self.rungs)):
            wanted, given = targets[:, rung], foretold[:, rung]
            error = float(np.sqrt(np.mean((given - wanted) ** 2)))
            noise = float(np.sqrt(np.mean(self._deviations[:, rung] ** 2)))
            explained = 1 - error**2 / float(wanted.var())
            found.append(Fit(error, float(spearmanr(given, wanted).statistic), explained, noise))
        return found


class _Blend:
    """Two regressions, of several targets.

    Args:
        rows: [n, features].
        targets: [n, targets].
    """

    def __init__(self, rows: np.ndarray, targets: np.ndarray) -> None:
        self._middle, self._spread = targets.mean(axis=0), np.maximum(targets.std(axis=0), 1e-9)
        scaled = (targets - self._middle) / self._spread
        forest = ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, random_state=0).fit(rows, scaled)
        # Asked by themselves: the forest's own way to ask them takes ten times as long for one row.
        self._trees = [tree.tree_ for tree in forest.estimators_]
        self._scaler = StandardScaler().fit(rows)
        features = self._scaler.transform(rows)
        vectors = SVR(C=PENALTY, gamma=SHARPNESS / rows.shape[1], epsilon=0.1)
        self._vectors = [clone(vectors).fit(features, target) for target in scaled.T]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """[n, targets] of rows [n, features]."""
        singles = np.ascontiguousarray(rows, dtype=np.float32)
        by_trees = np.mean([tree.predict(singles) for tree in self._trees], axis=0).reshape(len(rows), -1)
        features = self._scaler.transform(rows)
        by_vectors = np.column_stack([vectors.predict(features) for vectors in self._vectors])
        found: np.ndarray = self._middle + self._spread * (2 * by_trees + by_vectors) / 3
        return found
