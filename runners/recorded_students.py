"""The random students that costs of operators are recorded from: of every family, from two spaces each.

One space is the default one; the other is wider, so that costs also hold where a study asks for more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from space import JointSpace, SpaceSpec, TaskShape
from space.config import StudentConfig
from space.families import FAMILIES

_WIDER_FOR_ALL = {"block_size": [16, 32, 64, 128], "accuracy_level": [0, 4]}
_WIDER: dict[str, dict[str, Any]] = {
    "transformer": {
        "embedding_width": [32, 64, 96, 128, 192],
        "transformer": {
            "width": [64, 96, 128, 160, 192, 256, 320],
            "heads": [1, 2, 4, 8],
            "ffn_width": [64, 128, 256, 320, 384, 512, 768, 1024],
            "token_keep": [1.0, 0.8, 0.6, 0.5, 0.3],
            "depth": {"low": 1, "high": 6},
            "activation": ["gelu", "gelu_tanh", "relu", "relu_squared"],
            "unpacking": ["run", "load"],
        },
    },
    "birnn": {
        "birnn": {"depth": [1, 2], "hidden_width": {"low": 32, "high": 288, "step": 32}, "pooling": ["mean", "max"]},
    },
    "conv": {
        "conv": {
            "depth": {"low": 1, "high": 8},
            "width": [64, 96, 128, 192, 256],
            "convolution": ["separable", "standard"],
            "pooling": ["mean", "attentive"],
            "unpacking": ["run", "load"],
        },
    },
}
_SUFFIX = ", wider"


def spaces_of(family: str) -> tuple[str, str]:
    """Names of the default space of a family and of its wider one."""
    return family, f"{family}{_SUFFIX}"


SPACES = tuple(space for family in FAMILIES for space in spaces_of(family))


class Plan(NamedTuple):
    """What is recorded of a family.

    Attributes:
        batches: number of them, each of one length.
        size: students of a batch, from both spaces in turn.
        first_seed: of the first student.
        tokens: lengths of the batches, in turn.
    """

    batches: int
    size: int
    first_seed: int
    tokens: tuple[int, ...]


def plan_of(family: str) -> Plan:
    """More of the family that has most choices."""
    if family == "transformer":
        return Plan(20, 20, 10_000, (16, 64, 128, 32, 8, 96, 24, 48, 16, 64, 128, 40, 20, 80, 112))
    return Plan(12, 16, 20_000, (16, 64, 128, 32, 8, 24, 96, 48))


def draw_student(space: str, seed: int) -> tuple[StudentConfig, TaskShape, int]:
    """A random configuration of one of the `SPACES`, a task's shape and a size of the vocabulary."""
    generator = np.random.default_rng(seed)
    family, wider = space.removesuffix(_SUFFIX), space.endswith(_SUFFIX)
    spec: dict[str, Any] = {"families": [family]}
    if wider:
        spec |= {**_WIDER_FOR_ALL, **_WIDER.get(family, {})}
    config, _ = JointSpace(SpaceSpec.model_validate(spec)).draw(generator)
    tags = family != "transformer" and bool(generator.integers(2))
    if family == "transformer" and wider and generator.random() < 0.5:  # half of them unpruned
        layers = [layer.model_copy(update={"token_keep": 1.0}) for layer in config.layers]  # type: ignore[attr-defined]
        config = config.model_copy(update={"layers": tuple(layers)})
    segments = 1 + int(not tags and generator.integers(2))
    shape = TaskShape(outputs=2 if family == "transformer" else 3, segments=segments, max_length=128, per_token=tags)
    return config, shape, int(generator.integers(1500, 6000))
