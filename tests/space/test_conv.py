"""The convolutional family keeps what is asked of every family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.spaces import wide_spec
from pydantic import ValidationError

from space import InputError, JointSpace, TaskShape, architecture_key, deployed_bytes, parse_config
from space.families import build_student
from space.families.conv import ConvConfig
from space.families.conv.config import OPERATIONS


def space(**fields: Any) -> JointSpace:
    """Everything that any study could ask of the family, but for what is given."""
    recipe = {"initialization": ["random", "teacher"]}
    return JointSpace(wide_spec("conv", fields, vocabulary_keep=[0.02, 0.05], accuracy_level=0, recipe=recipe))


def cell(*edges: tuple[str, str], depth: int = 2, **fields: Any) -> ConvConfig:
    """A configuration with a cell of six edges, each an input and an operation."""
    made = [{"input": source, "operation": operation} for source, operation in edges]
    nodes = [{"left": made[i], "right": made[i + 1]} for i in range(0, len(made), 2)]
    shared = {"vocabulary_keep": 0.05, "embedding_width": 32, "embedding_bits": 4, "block_size": 32}
    config = {"accuracy_level": 0, "width": 64, "conv_bits": 4, "depth": depth, "nodes": nodes, **fields}
    return ConvConfig(**{**shared, **config})


@pytest.mark.parametrize("operation", OPERATIONS[1:])
def test_padding_changes_no_operation(operation, vocabulary):
    """The states of a text are the same alone and beside a longer one, to the last place that a window reaches."""
    config = cell(*[("cell-1", operation)] * 6, depth=3)
    shape = TaskShape(outputs=2, segments=1, max_length=40)
    torch.manual_seed(0)
    student = build_student(config, shape, 600).eval()
    ids = torch.randint(5, 600, (2, 30))
    mask = torch.ones(2, 30, dtype=torch.int64)
    mask[0, 9:] = 0
    with torch.no_grad():
        beside = student.encode_layers(ids * mask, mask)[1]
        alone = student.encode_layers(ids[:1, :9], mask[:1, :9])[1]
    for both, one in zip(beside, alone, strict=True):
        torch.testing.assert_close(both.hidden[:1, :9], one.hidden, atol=1e-5, rtol=1e-5)


def test_a_convolution_is_that_of_torch(vocabulary):
    from space.families.conv.config import window_of
    from space.families.conv.module import ReluConvNorm

    window = window_of("dilated_conv5")
    torch.manual_seed(0)
    layer = ReluConvNorm(window, 32, 4, 32, separable=True)
    layer.taps.rounding = layer.mix.rounding = False
    x = torch.randn(2, 11, 32)
    mask = torch.ones(2, 11, 1)
    deep = torch.nn.functional.conv1d(
        x.relu().transpose(1, 2), layer.taps.weight.T[:, None], padding=4, dilation=2, groups=32
    )
    torch.testing.assert_close(layer(x, mask), layer.norm(layer.mix(deep.transpose(1, 2))), atol=1e-5, rtol=1e-5)


def test_configurations_round_trip_through_params_and_json():
    generator = np.random.default_rng(0)
    wide = space()
    for _ in range(50):
        config, recipe = wide.draw(generator)
        params = wide.to_params(config, recipe)
        assert wide.from_params(params) == (config, recipe)
        assert ("cell.node1.left_input" in params) == (config.depth > 0)
        assert parse_config(config.model_dump(mode="json")) == config
    assert {"cell.node3.right_operation", "conv.depth", "conv.width"} <= set(wide.to_params(*wide.draw(generator))) | {
        name for _ in range(20) for name in wide.to_params(*wide.draw(generator))
    }


@pytest.mark.parametrize("operations", [list(OPERATIONS), ["max_pool3", "conv3"], ["conv7", "conv3", "identity"]])
def test_no_configuration_is_smaller_than_the_smallest(vocabulary, operations):
    shape = TaskShape(outputs=3, segments=1, max_length=32)
    wide, generator = space(operation=operations, depth=[1, 2, 3]), np.random.default_rng(4)
    sizes = [deployed_bytes(wide.draw(generator)[0], shape, vocabulary) for _ in range(200)]
    assert wide.smallest_bytes(shape, vocabulary) <= min(sizes)


def test_what_leads_nowhere_is_not_computed():
    skipping = cell(*[("cell-2", "conv3")] * 6, depth=5)
    assert skipping.executed_cells() == [0, 2, 4]
    empty = cell(*[("cell-1", "zero")] * 4, ("node1", "conv3"), ("node2", "conv7"), depth=3)
    assert empty.executed_cells() == []
    assert empty.cell() == ((), (), ())
    half = cell(("cell-1", "conv3"), ("cell-2", "zero"), *[("node1", "identity")] * 4)
    assert [len(edges) for edges in half.cell()] == [1, 2, 2]
    shape = TaskShape(outputs=2, segments=1, max_length=16)
    student = build_student(empty, shape, 50)
    assert student.depth == 1  # what the embedding stage yields is compared with the teacher's states
    assert not list(student.cells)


def test_architecture_keys_tell_cells_and_bits_apart():
    shape = TaskShape(outputs=2, segments=1, max_length=32)
    base = cell(*[("cell-1", "conv3")] * 6)
    others = [
        cell(*[("cell-1", "conv3")] * 5, ("cell-2", "conv3")),
        cell(*[("cell-1", "conv3")] * 5, ("cell-1", "conv5")),
        cell(*[("cell-1", "conv3")] * 6, conv_bits=8),
        cell(*[("cell-1", "conv3")] * 6, convolution="standard"),
        cell(*[("cell-1", "conv3")] * 6, depth=3),
    ]
    keys = {architecture_key(config, shape, 500) for config in (base, *others)}
    assert len(keys) == len(others) + 1
    assert architecture_key(base.model_copy(), shape, 500) in keys


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"operation": ["conv4"]}, "operation cannot be 'conv4'"),
        ({"depth": {"low": 0, "high": 9}}, "depth cannot be 9"),
        ({"depth": 1.5}, "depth cannot be 1.5"),
        ({"width": [100]}, "width cannot be 100"),
        ({"pooling": "maximum"}, "pooling cannot be 'maximum'"),
        ({"cells": 3}, "Extra inputs"),
    ],
)
def test_wrong_sections_are_refused(section, message):
    with pytest.raises((ValidationError, InputError), match=message):
        space(**section)


def test_nodes_read_only_what_stands_before_them():
    with pytest.raises(ValidationError, match="node1 cannot read node2, but cell-2, cell-1"):
        cell(("node2", "conv3"), *[("cell-1", "conv3")] * 5)
    with pytest.raises(ValidationError, match="without cells"):
        cell(*[("cell-1", "conv3")] * 6, depth=0)
