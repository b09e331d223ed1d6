"""Pairs of an old and a new task for `warm_start.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.bench import synthetic
from search.bench.problem import Problem
from search.bench.recorded import RecordedProblem
from search.bench.synthetic import CEILING, CHANCE, TOKENS, WORDS, SyntheticProblem, latency
from space.config import Recipe
from space.families.transformer import Layer, TransformerConfig
from space.families.transformer.config import PER_LAYER

INVENTED = ("related", "unrelated", "opposite")
RECORDED = ("again", "third", "small", "formula", "reverse")
KINDS = {"invented": INVENTED, "recorded": RECORDED}
REFLECTED = {"label_weight": (0.0, 1.0), "logit_weight": (0.25, 2.0), "hidden_weight": (0.0, 4.0)}
SMALL_BYTES = 400_000


class InventedTask(SyntheticProblem):
    """A synthetic problem with other weights.

    Args:
        spread: standard deviation of the logarithms of the weights.
        shift: standard deviation of the learning rate's optimum, in decades.
        reflected: how probable it is that a weight of the recipe wants the reverse.
        opposite: whether the worst is the best.
    """

    def __init__(self, seed: Sequence[int], spread: float, shift: float, reflected: float, opposite: bool) -> None:
        super().__init__()
        draw = np.random.default_rng(seed)
        names = ("capacity", "bits", "words", "tokens", "recipe")
        self._weights = dict(zip(names, np.exp(spread * draw.standard_normal(len(names))), strict=True))
        self._faster = 10 ** float(shift * draw.standard_normal())
        self._reflected = [name for name in REFLECTED if draw.random() < reflected]
        self._other_start = draw.random() < reflected
        self._opposite = opposite

    def costs(self, params: Mapping[str, Any]) -> dict[str, float]:
        config = _built(params)
        return {"deployed_bytes": _about_bytes(config), "latency_ms": latency(config, TOKENS["latency_ms"])}

    def quality(self, params: Mapping[str, Any]) -> float:
        config, recipe = self.space.from_params(params)
        found = CHANCE + (CEILING - CHANCE) * math.exp(-self._loss(config, recipe) / (CEILING - CHANCE))
        return CHANCE + CEILING - found if self._opposite else found

    def _loss(self, config: Any, recipe: Recipe) -> float:
        changed: dict[str, Any] = {"learning_rate": min(1.0, recipe.learning_rate * self._faster)}
        for name in self._reflected:
            low, high = REFLECTED[name]
            changed[name] = low + high - getattr(recipe, name)
        if self._other_start:
            changed["initialization"] = "teacher" if recipe.initialization == "random" else "random"
        recipe, weights = recipe.model_copy(update=changed), self._weights
        loss = weights["capacity"] * synthetic._capacity_loss(config) + weights["bits"] * synthetic._bits_loss(config)
        loss += weights["words"] * 0.10 * math.exp(-config.vocabulary_keep / 0.09)
        for layer in config.layers:
            loss += weights["tokens"] * 0.03 * (1 - layer.token_keep) ** 2
        return loss + weights["recipe"] * 2 * synthetic._recipe_loss(recipe, config.width, len(config.layers))


def _built(params: Mapping[str, Any]) -> TransformerConfig:
    """The configuration, without the checks that would take most of the benchmark's time."""
    layers = tuple(
        Layer.model_construct(**{name: params[f"layer{index}.{name}"] for name in PER_LAYER})
        for index in range(params["depth"])
    )
    names = ("vocabulary_keep", "embedding_width", "embedding_bits", "block_size", "width", "heads", "activation")
    return TransformerConfig.model_construct(layers=layers, **{name: params[name] for name in names})


def _about_bytes(config: TransformerConfig) -> float:
    """Packed weights with a scale of 2 bytes a block, word pieces of 8 bytes, and the graph."""
    scales = 16 / config.block_size
    words, width = WORDS * config.vocabulary_keep, config.width
    bits = words * (config.embedding_width * (config.embedding_bits + scales) + 64)
    bits += config.embedding_width * width * (config.embedding_bits + scales)
    for layer in config.layers:
        bits += 4 * width * width * (layer.attention_bits + scales)
        bits += 2 * width * layer.ffn_width * (layer.ffn_bits + scales)
    return bits / 8 + 30_000 + 10_000 * len(config.layers)


class RecordedTask:
    """The recorded task, or what is made of it to search before it.

    Args:
        recorded: the problem of the recorded trials.
        kind: see `warm_start.py`.
    """

    def __init__(self, recorded: RecordedProblem, kind: str = "again") -> None:
        self._recorded, self._kind = recorded, kind
        self.name, self.space = recorded.name, recorded.space
        self.rungs: tuple[float, ...] = (1.0,)
        self.objectives, self.reference = recorded.objectives, recorded.reference
        self.limits = {"deployed_bytes": float(SMALL_BYTES)} if kind == "small" else recorded.limits

    def costs(self, params: Mapping[str, Any]) -> dict[str, float]:
        return self._recorded.costs(params)

    def quality(self, params: Mapping[str, Any]) -> float:
        if self._kind == "formula":
            return synthetic.quality(*self.space.from_params(params))
        found = self._recorded.quality(params)
        return CHANCE + CEILING - found if self._kind == "reverse" else found

    def evaluate(self, params: Mapping[str, Any], seed: int) -> tuple[float, ...]:
        found = self._recorded.evaluate(params, seed)
        if self._kind == "third":
            return (found[1],)
        return (self.quality(params) + found[-1] - self._recorded.quality(params),)

    def seconds(self, params: Mapping[str, Any]) -> float:
        return self._recorded.seconds(params)


def pair(kind: str, seed: int, recorded: RecordedProblem | None = None) -> tuple[Problem, Problem]:
    """An old task and a new one."""
    if recorded is not None:
        return RecordedTask(recorded, kind), RecordedTask(recorded)
    old = InventedTask([seed, 0], 0.3, 0.15, 0.0, False)
    if kind == "related":
        return old, InventedTask([seed, 1], 0.3, 0.15, 0.0, False)
    if kind == "unrelated":
        return old, InventedTask([seed, 2], 0.7, 0.5, 0.5, False)
    return old, InventedTask([seed, 0], 0.3, 0.15, 0.0, True)
