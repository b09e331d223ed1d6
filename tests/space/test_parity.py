"""The exported file answers what the torch student answers."""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
import pytest
import torch

from space import JointSpace, SpaceSpec, TaskShape
from space.families import build_student, export_model
from space.families.transformer.module import Tokens
from space.vocabulary import CLS_ID, SEP_ID

TOLERANCE = 1e-3


def random_inputs(generator: np.random.Generator, shape: TaskShape, vocabulary_size: int) -> dict[str, np.ndarray]:
    """Eight texts of 2 to `max_length` tokens, padded at the end."""
    lengths = np.concatenate(([2], generator.integers(3, shape.max_length + 1, 7)))
    longest = int(lengths.max())
    ids = generator.integers(5, vocabulary_size, (8, longest))
    present = np.arange(longest) < lengths[:, None]
    ids[:, 0] = CLS_ID
    ids[np.arange(8), lengths - 1] = SEP_ID
    feed = {"input_ids": np.where(present, ids, 0), "attention_mask": present.astype(np.int64)}
    if shape.segments == 2:
        feed["token_type_ids"] = (present & (np.arange(longest) > longest // 2)).astype(np.int64)
    return feed


def session(model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def test_tokens_that_have_logits_cannot_be_pruned(vocabulary):
    config, _ = JointSpace(SpaceSpec(transformer={"token_keep": 0.5})).draw(np.random.default_rng(0))
    shape = TaskShape(outputs=7, segments=1, max_length=40, per_token=True)
    with pytest.raises(ValueError, match="token_keep must be 1"):
        export_model(config, shape, 600, build_student(config, shape, 600))


def test_pruning_keeps_special_tokens_and_the_configured_count(vocabulary):
    spec = SpaceSpec(accuracy_level=0, transformer={"depth": 1, "width": 64, "heads": 2, "token_keep": 0.25})
    config, _ = JointSpace(spec).draw(np.random.default_rng(0))
    shape = TaskShape(outputs=2, segments=1, max_length=40)
    student = build_student(config, shape, vocabulary.size(config.vocabulary_keep))
    layer = student.layers[0]
    mask = torch.zeros(2, 40)
    mask[0, :40], mask[1, :20] = 1, 1
    special = torch.zeros(2, 40)
    special[:, 0], special[0, 39], special[1, 19] = 1, 1, 1
    with torch.no_grad():
        _, left, places = layer(torch.randn(2, 40, 64), Tokens(mask, special, mask), 1.0)
    assert left.mask.sum(1).tolist() == [10.0, 5.0]
    assert (left.special * left.mask).sum(1).tolist() == [2.0, 2.0]
    assert {0, 39} < set(places[0, :10].tolist())
    assert {0, 19} < set(places[1, :5].tolist())


def test_soft_pruning_narrows_to_the_hard_one(vocabulary):
    """Through two layers: what fades is what goes in the end, and its weight falls from 1 to almost nothing."""
    spec = SpaceSpec(transformer={"depth": 2, "width": 64, "heads": 2, "token_keep": 0.5})
    config, _ = JointSpace(spec).draw(np.random.default_rng(0))
    torch.manual_seed(0)
    first, second = build_student(config, TaskShape(outputs=2, segments=1, max_length=40), 600).layers
    mask, special = torch.ones(2, 20), torch.zeros(2, 20)
    mask[1, 12:] = 0
    special[:, 0] = 1
    tokens, x = Tokens(mask, special, mask), torch.randn(2, 20, 64) * 3
    faded = []
    for progress in (0.0, 0.3, 0.99):
        middle, left, places = first(x, tokens, progress)
        assert places is None
        _, left, _ = second(middle, left, progress)
        faded.append(left.mask)
    assert faded[0].equal(mask)
    assert left.chosen.sum(1).tolist() == [5.0, 4.0]  # of 20 tokens 10, then 5; of 12 tokens 6, then the fewest
    assert (left.chosen * special).sum() == 2
    gone = (left.chosen == 0) & (mask > 0)
    assert (left.mask[gone] < 0.5).all()
    assert (left.mask[left.chosen > 0] > 0.5).all()
    assert faded[1][gone].mean() > 2 * left.mask[gone].mean()
    left.mask.sum().backward()
    assert first.qkv.weight.grad.abs().sum() > 0  # attention learns what to keep
    _, left, places = first(x, tokens, 1.0)
    assert left.mask.sum(1).tolist() == [10.0, 6.0]
    assert set(places[1, :6].tolist()) == set(first(x, tokens, 0.99)[1].chosen[1].nonzero().flatten().tolist())
