"""Spaces with everything that any study could ask of a family of students."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from space import SpaceSpec
from space.config import VocabularyScore
from space.families.conv.config import Convolution, Pooling
from space.families.transformer.config import Activation, Unpacking

UNPACKING = get_args(Unpacking)[::-1]
# Wider than the defaults; a family that is not among these has its defaults.
WIDE: dict[str, dict[str, Any]] = {
    "transformer": {
        "depth": {"low": 1, "high": 9},
        "width": [64, 96, 128, 160, 256],
        "token_keep": {"low": 0.2, "high": 1},
        "activation": get_args(Activation)[::-1],
        "unpacking": UNPACKING,
        "layer_repeats": [1, 2],
    },
    "birnn": {
        "depth": [1, 2],
        "hidden_width": {"low": 16, "high": 256, "step": 16},
        "pooling": ["mean", "max"],
        "unpacking": UNPACKING,
    },
    "conv": {
        "depth": {"low": 0, "high": 8},
        "width": [64, 96, 128],
        "convolution": get_args(Convolution)[::-1],
        "pooling": get_args(Pooling)[::-1],
        "unpacking": UNPACKING,
    },
}


def wide_spec(family: str, section: Mapping[str, Any] | None = None, **fields: Any) -> SpaceSpec:
    """The wide space of a family, but for what is given of its section and of the whole."""
    shared = {
        "families": [family],
        "vocabulary_keep": {"low": 0.01, "high": 1.0},
        "vocabulary_score": get_args(VocabularyScore)[::-1],
        "embedding_width": {"low": 16, "high": 256, "step": 16},
        "block_size": [16, 32, 64, 128],
        "accuracy_level": [0, 4],
    }
    return SpaceSpec.model_validate({**shared, family: {**WIDE.get(family, {}), **(section or {})}, **fields})
