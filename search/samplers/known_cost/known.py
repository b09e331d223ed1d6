"""What is known of a study's configurations before any of them is trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from scipy.stats import qmc

from search.samplers.known_cost.features import Features
from search.samplers.known_cost.gaussian_process import Scales, first_factor, fit_scales
from search.samplers.known_cost.layout import Layout
from search.samplers.known_cost.prior import Prior
from space.joint import JointSpace

Costs = Callable[[Mapping[str, Any]], Mapping[str, float]]
Key = TypeVar("Key")
Value = TypeVar("Value")

POOL = 1024  # feasible configurations, spread over the space, that every proposal is chosen from (among others)
MOST_DRAWS = 8192
FEWEST = 64  # below so many feasible ones in MOST_DRAWS, the search for feasible ones goes on from the nearest
REMEMBERED = 6  # fits and factors: with a prior and without, of each rung
FACTOR_BYTES = 2**28  # of all factors, unless the last one alone has more: with 5,000 trials each has 200 MB
RECIPE = "recipe."  # parameters of that name change no cost


class KnownCosts:
    """The space of a study, with what its configurations cost.

    Costs are remembered for as long as the process lives; they follow from the configuration alone, so this changes
    no proposal.

    Args:
        space: that is searched.
        costs: exact or predicted costs of a configuration, given its flat parameters, by the names that objectives
            and limits have (`deployed_bytes`, `latency_ms`, ...); always the same names. An objective or a limit
            that it does not name is not looked at here.
        objectives: of the study, in the order of its directions; `quality` is raised, all others are lowered.
        limits: most of a cost, by name.
        reference: worst values of interest by objective: the point against which the hypervolume counts. A cost
            without one has its limit, or a little more than the largest cost of a sample; without that of quality,
            the worst trial is it.
        prior: what older studies know of the qualities; nothing by default.

    Attributes:
        foreseen: what `KnownCostSampler` expected and proposed last, by the seeds and the digest of the history that it
            follows from.
        read: what `History` read of the trial of each number last; of which study's, it looks for itself.

    Raises:
        ValueError: no objective is called quality.
    """

    def __init__(
        self,
        space: JointSpace,
        costs: Costs,
        objectives: Sequence[str] = ("quality",),
        limits: Mapping[str, float] | None = None,
        reference: Mapping[str, float] | None = None,
        prior: Prior | None = None,
    ) -> None:
        if "quality" not in objectives:
            raise ValueError(f"objectives should hold quality, got {list(objectives)}")
        self.space = space
        self.prior = prior
        self.layout = Layout(space)
        self.quality_index = list(objectives).index("quality")
        self._costs = costs
        self._objectives = objectives
        self._limits = dict(limits or {})
        self._reference = dict(reference or {})
        self._known: dict[bytes, tuple[float, ...]] = {}
        self._pools: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._features: dict[int, Features] = {}
        self._fitted: dict[tuple[bytes, ...], Scales] = {}
        self._factors: dict[tuple[bytes, ...], np.ndarray] = {}
        self.foreseen: dict[tuple[int, int, bytes], Any] = {}
        self.read: dict[int, Any] = {}
        self.recipe = np.array([name.startswith(RECIPE) for name in self.layout.names], dtype=bool)
        self.distributions = self.layout.distributions()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the costs, in the order of the arrays below."""
        row = self.layout.draw(np.random.default_rng(0), 1)[0]
        return tuple(sorted(self._costs(self.layout.params(row))))

    @cached_property
    def limits(self) -> np.ndarray:
        """[costs], infinite where there is none."""
        return np.array([self._limits.get(name, math.inf) for name in self.names])

    @cached_property
    def objective_costs(self) -> list[int]:
        """Which of the costs are objectives."""
        return [index for index, name in enumerate(self.names) if name in self._objectives]

    def costs(self, rows: np.ndarray) -> np.ndarray:
        """Costs [n, costs] of rows [n, columns]."""
        found = []
        for number, part in enumerate(np.ascontiguousarray(rows[:, ~self.recipe])):
            key = part.tobytes()
            known = self._known.get(key)
            if known is None:
                answer = self._costs(self.layout.params(rows[number]))
                known = self._known[key] = tuple(float(answer[name]) for name in self.names)
            found.append(known)
        return np.array(found).reshape(len(rows), len(self.names))

    def excess(self, costs: np.ndarray, correction: np.ndarray | float = 1.0) -> np.ndarray:
        """How far [n] costs [n, costs] are above their limits, relative to these; 0 or less: all are kept."""
        return (costs * correction / self.limits - 1).max(axis=1)

    def pool(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows [n, columns] and costs [n, costs] of configurations spread over the feasible part of the space.

        Where the whole space has next to no feasible configuration, those found by going on from the nearest ones;
        where none is found at all, the nearest ones.

        Args:
            seed: of the study.
        """
        if seed not in self._pools:
            self._pools[seed] = self._spread(seed)
        return self._pools[seed]

    def _spread(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        sobol = qmc.Sobol(max(1, len(self.layout)), rng=np.random.default_rng([seed, 1]))
        rows, costs = np.empty((0, len(self.layout))), np.empty((0, len(self.names)))
        drawn = 0
        while len(rows) < POOL and drawn < MOST_DRAWS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the balance of the points: they are filtered anyway
                more = self.layout.from_unit(sobol.random(POOL)[:, : len(self.layout)])
            drawn += POOL
            rows, costs = self._append(rows, costs, more)
            if drawn < MOST_DRAWS:
                feasible = self.excess(costs) <= 0
                rows, costs = rows[feasible], costs[feasible]
        generator = np.random.default_rng([seed, 2])
        everything = np.ones(len(self.layout), dtype=bool)
        for _ in range(20):
            excess = self.excess(costs)
            if (excess <= 0).sum() >= FEWEST:
                break
            nearest = np.argsort(excess, kind="stable")[:FEWEST]
            more = self.layout.vary(np.repeat(rows[nearest], 4, axis=0), generator, 0.2, everything)
            rows, costs = self._append(rows[nearest], costs[nearest], more)
        excess = self.excess(costs)
        kept = np.flatnonzero(excess <= 0) if (excess <= 0).any() else np.argsort(excess, kind="stable")[:FEWEST]
        different = list({rows[number].tobytes(): number for number in kept[::-1]}.values())[::-1][:POOL]
        return rows[different], costs[different]

    def _append(self, rows: np.ndarray, costs: np.ndarray, more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate((rows, more)), np.concatenate((costs, self.costs(more)))

    def features(self, seed: int) -> Features:
        """How configurations look to the model of quality."""
        if seed not in self._features:
            self._features[seed] = Features(self.layout, *self.pool(seed))
        return self._features[seed]

    def fitted(self, x: np.ndarray, y: np.ndarray, remoteness: np.ndarray) -> Scales:
        """`fit_scales`, remembering the last answers."""
        key = (x.tobytes(), y.tobytes())
        return _remembered(self._fitted, key, lambda: fit_scales(x, y, remoteness))

    def factor(self, x: np.ndarray, scales: Scales) -> np.ndarray:
        """`first_factor`, remembering the last answers."""
        key = (x.tobytes(), scales.lengths.tobytes(), repr((scales.smooth, scales.regression, scales.noise)).encode())
        factor = _remembered(self._factors, key, lambda: first_factor(x, scales))
        while len(self._factors) > 1 and sum(each.nbytes for each in self._factors.values()) > FACTOR_BYTES:
            self._factors.pop(next(iter(self._factors)))
        return factor

    def worst_costs(self, seed: int) -> list[float]:
        """Reference point of the costs that are objectives."""
        _, costs = self.pool(seed)
        worst = []
        for index in self.objective_costs:
            given = self._reference.get(self.names[index], self.limits[index])
            worst.append(float(given) if math.isfinite(given) else 1.1 * float(costs[:, index].max()))
        return worst

    @property
    def worst_quality(self) -> float | None:
        """Reference point of the quality, None if it is that of the worst trial."""
        return self._reference.get("quality")


def _remembered(known: dict[Key, Value], key: Key, make: Callable[[], Value]) -> Value:
    """What was made for a key, or what is made now; the one that was not asked for longest is forgotten."""
    value = known.pop(key) if key in known else make()
    while len(known) >= REMEMBERED:
        known.pop(next(iter(known)))
    known[key] = value
    return value
