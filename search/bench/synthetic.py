"""An invented problem over the real joint space, with real byte counts.

Quality and latency are formulas with the shape of what is known of small students: capacity has diminishing
returns, 2 bits hurt most in the first and the last layer and are slow, words that the vocabulary lacks cost accuracy,
dropping tokens early hurts more than late, the best learning rate falls with the width. The figures are made up:
what is tuned on them is the comparison of samplers, not a student.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from space.config import Recipe, StudentConfig
from space.families import deployed_bytes
from space.families.transformer import TransformerConfig
from space.joint import JointSpace, SpaceSpec
from space.shape import TaskShape
from space.vocabulary import SPECIAL_TOKENS, Vocabulary

WORDS = 30_000
TOKENS = {"latency_ms": 24, "long_latency_ms": 96}
CHANCE, CEILING = 0.5, 0.93
BITS_LOSS = {2: 0.045, 4: 0.006, 8: 0.0}
BITS_SLOWNESS = {2: 1.5, 4: 1.0, 8: 1.1}


class SyntheticProblem:
    """Two classes, a vocabulary of 30,000 made-up words.

    Args:
        objectives: quality and any of deployed_bytes, latency_ms, long_latency_ms.
        deployed_bytes: the limit. By default about a third of all random configurations break it.
        noise: standard deviation of the quality between two trainings of one configuration.
        space: by default that of a study file which says nothing about it.
    """

    name = "synthetic"
    rungs: tuple[float, ...] = (1 / 9, 1 / 3, 1.0)

    def __init__(
        self,
        objectives: tuple[str, ...] = ("quality", "latency_ms"),
        deployed_bytes: int = 1_000_000,
        noise: float = 0.005,
        space: JointSpace | None = None,
    ) -> None:
        self.space = space or JointSpace(SpaceSpec())
        self.objectives = objectives
        self.limits: dict[str, float] = {"deployed_bytes": deployed_bytes}
        self._noise = noise
        self._shape = TaskShape(outputs=2, segments=1, max_length=128)
        letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
        tokens = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
        tokens += [f"word{index}" for index in range(WORDS)]
        score = np.arange(len(tokens), 0, -1, dtype=float)
        self._vocabulary = Vocabulary(tokens, score, score)
        worst = {"quality": CHANCE, "latency_ms": 10.0, "long_latency_ms": 50.0, "deployed_bytes": deployed_bytes}
        self.reference = {name: float(worst[name]) for name in objectives}

    def costs(self, params: Mapping[str, Any]) -> dict[str, float]:
        """Exact bytes, and milliseconds by a formula."""
        config = self.space.config_from(params)
        found = {name: latency(config, tokens) for name, tokens in TOKENS.items()}
        return {"deployed_bytes": float(deployed_bytes(config, self._shape, self._vocabulary)), **found}

    def quality(self, params: Mapping[str, Any]) -> float:
        """Share of correct answers, by a formula."""
        return quality(*self.space.from_params(params))

    def evaluate(self, params: Mapping[str, Any], seed: int) -> tuple[float, ...]:
        """The same with noise, and on the way: a low learning rate and a large student get there later."""
        config, recipe = self.space.from_params(params)
        final = quality(config, recipe)
        noise = np.random.default_rng(seed).standard_normal(len(self.rungs))
        found = []
        for share, drawn in zip(self.rungs, noise, strict=True):
            learnt = (1 - math.exp(-share * _pace(config, recipe))) / (1 - math.exp(-_pace(config, recipe)))
            found.append(CHANCE + (final - CHANCE) * learnt + self._noise * float(drawn))
        return tuple(found)

    def seconds(self, params: Mapping[str, Any]) -> float:
        """A minute, and more for larger students."""
        config = self.space.config_from(params)
        return 60.0 + 10.0 * latency(config, TOKENS["long_latency_ms"])


def latency(config: StudentConfig, tokens: int) -> float:
    """Milliseconds for a text of that many tokens."""
    assert isinstance(config, TransformerConfig)
    width = config.width
    operations = tokens * config.embedding_width * width * BITS_SLOWNESS[config.embedding_bits]
    for layer in config.layers:
        kept = max(4, math.ceil(tokens * layer.token_keep))
        slowness = BITS_SLOWNESS[layer.attention_bits]
        operations += 4 * tokens * width * width * slowness + 4 * tokens * tokens * width
        operations += 2 * kept * width * layer.ffn_width * BITS_SLOWNESS[layer.ffn_bits]
        operations += tokens * tokens * config.heads * 24
        operations += kept * layer.ffn_width * (20 if config.activation == "gelu" else 2)
        tokens = kept
    if config.block_size == 32:
        operations *= 1.08
    return 0.15 + 0.05 * len(config.layers) + operations / 8e6


def quality(config: StudentConfig, recipe: Recipe) -> float:
    """Accuracy between `CHANCE` and `CEILING`."""
    assert isinstance(config, TransformerConfig)
    depth = len(config.layers)
    loss = _capacity_loss(config) + _bits_loss(config)
    loss += 0.10 * math.exp(-config.vocabulary_keep / 0.09)
    remaining = 1.0
    for index, layer in enumerate(config.layers):
        loss += 0.05 * remaining * (1 - layer.token_keep) ** 2 * (1.5 if index == 0 else 0.6)
        remaining *= layer.token_keep
    loss += 0.03 * max(0.0, 0.3 - remaining)
    loss += 0.006 * math.log2(config.width / config.heads / 32) ** 2
    loss += 0.004 * (config.activation == "relu")
    loss += _recipe_loss(recipe, config.width, depth)
    return CHANCE + (CEILING - CHANCE) * math.exp(-loss / (CEILING - CHANCE))


def _pace(config: StudentConfig, recipe: Recipe) -> float:
    """How fast a student learns: the rate of an exponential approach to its final quality."""
    assert isinstance(config, TransformerConfig)
    return 6.0 * (recipe.learning_rate / 1e-3) ** 0.3 * (128 / config.width) ** 0.2


def _capacity_loss(config: TransformerConfig) -> float:
    inner = sum(layer.ffn_width for layer in config.layers)
    capacity = math.log2(config.width / 96) + 0.8 * math.log2(len(config.layers)) + 0.35 * math.log2(inner / 128)
    narrow = 32 / config.embedding_width
    return 0.11 * math.exp(-0.75 * capacity) + 0.02 * narrow * (1 + 0.5 * (config.width > 128))


def _bits_loss(config: TransformerConfig) -> float:
    ends = (0, len(config.layers) - 1)
    finer = 0.8 if config.block_size == 32 else 1.0
    loss = 0.8 * BITS_LOSS[config.embedding_bits] * finer
    for index, layer in enumerate(config.layers):
        weight = (1.6 if index in ends else 1.0) / (len(config.layers) + 1)
        loss += weight * finer * (BITS_LOSS[layer.attention_bits] + 0.7 * BITS_LOSS[layer.ffn_bits])
    return loss


def _recipe_loss(recipe: Recipe, width: int, depth: int) -> float:
    best = -2.7 - 0.35 * math.log2(width / 128) - 0.05 * depth
    distance = math.log10(recipe.learning_rate) - best
    loss = 0.15 * distance**2 + 0.4 * max(0.0, distance - 0.2) ** 2
    loss += 0.02 * (recipe.label_weight - 0.35) ** 2
    loss += 0.012 * (math.log2(recipe.temperature) - 1.2) ** 2 * min(1.0, recipe.logit_weight)
    loss += 0.01 * (recipe.logit_weight - 1.2) ** 2 + 0.004 * (recipe.hidden_weight - 1.5) ** 2
    loss += {0.0: 0.004, 1e-5: 0.0, 1e-4: 0.006}.get(recipe.teacher_learning_rate, 0.004)
    return loss + 0.012 * (recipe.initialization == "random")
