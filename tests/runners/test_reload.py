"""A bundle goes back to torch, is trained further, and becomes a bundle again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.bundles import write_bundle

from runners.bundle import deployed_size
from runners.evaluate import run_student
from runners.predict import load_bundle, save_student
from runners.wordpiece import encode_texts, wordpiece
from space import InputError
from space.layers import QuantizedWeight
from space.normalization import Normalization

TEXTS = ["the film was great", "the film was not very great", "a dull film", "ada met a very dull film"]
LABELS = torch.tensor([1, 0, 0, 0])


def test_trained_further_and_back(tmp_path: Path) -> None:
    before = load_bundle(write_bundle(tmp_path / "before", "texts"))
    student = before.student().train()
    encoded = encode_texts(wordpiece(before.tokens, Normalization(), 24), TEXTS, None)
    longest = int(encoded.lengths.max())
    ids = torch.zeros(len(TEXTS), longest, dtype=torch.int64)
    for row, (start, end) in enumerate(zip(encoded.starts, encoded.starts[1:], strict=False)):
        ids[row, : end - start] = torch.from_numpy(encoded.ids[start:end].astype(np.int64))
    mask = (ids != 0).long()
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        loss = torch.nn.functional.cross_entropy(student(ids, mask), LABELS)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        without = [name for name, value in student.named_parameters() if value.grad is None]
        assert not without
        optimizer.step()
    assert losses[-1] < losses[0]
    # The loss is one of rounded weights: rounding is on, and changes the answer.
    layers = [module for module in student.modules() if isinstance(module, QuantizedWeight)]
    assert layers
    assert all(layer.rounding for layer in layers)

    size = save_student(before, student, tmp_path / "after")
    after = load_bundle(tmp_path / "after")
    assert size == deployed_size(tmp_path / "after") == deployed_size(tmp_path / "before")
    expected = torch.from_numpy(run_student(student, encoded)).softmax(-1)
    found = [[p.probabilities["bad"], p.probabilities["good"]] for p in after.predict(TEXTS)]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    earlier = [p.probabilities["good"] for p in before.predict(TEXTS)]
    assert not np.allclose(earlier, [row[1] for row in found], atol=1e-3)
    card = (tmp_path / "after" / "README.md").read_text()
    assert "has not been measured since" in card
    assert "metrics.json" not in card
    assert not (tmp_path / "after" / "metrics.json").exists()


def test_a_student_of_another_shape_is_refused(tmp_path: Path) -> None:
    one = load_bundle(write_bundle(tmp_path / "one", "texts"))
    other = load_bundle(write_bundle(tmp_path / "other", "tags"))
    with pytest.raises(InputError, match="is not one of"):
        save_student(one, other.student(), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="exists already"):
        save_student(one, one.student(), tmp_path / "other")
