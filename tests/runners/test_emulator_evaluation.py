from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import EncoderShape, write_encoder

from objectives.latency import load_profile
from runners.batches import Encoded, collate
from runners.emulator import evaluate_on_arm
from runners.emulator.execution import emulated_runner, work_folder
from runners.emulator.requests import Request, send
from runners.evaluate import batched, gather_answers, open_session, run_model
from space.errors import InputError

SHAPE = EncoderShape(layers=1, hidden=64, feed_forward=128, vocabulary=500, embedding=32)


def _texts(count: int, pairs: bool) -> Encoded:
    random = np.random.default_rng(0)
    lengths = random.integers(2, 30, count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = random.integers(1, SHAPE.vocabulary, starts[-1]).astype(np.int32)
    segments = random.integers(0, 2, starts[-1]).astype(np.uint8) if pairs else None
    return Encoded(ids, segments, starts.astype(np.int64), pad=0)


@pytest.mark.parametrize("pairs", [False, True], ids=["single texts", "pairs"])
def test_arm_kernels_compute_what_this_machine_computes(pairs, tmp_path, emulator) -> None:
    model = write_encoder(tmp_path / "model.onnx", replace(SHAPE, segments=2 if pairs else 1))
    texts = _texts(90, pairs)
    batches = []
    for rows in np.array_split(np.argsort(-texts.lengths), 5):
        batches.append({name: values.numpy() for name, values in collate(texts, rows, torch.device("cpu")).items()})
    session, profile = open_session(model), load_profile("cortex-a53")
    wanted = [value.name for value in session.get_inputs()]
    here = np.concatenate([session.run(None, {name: batch[name] for name in wanted})[0] for batch in batches])
    together, split = (np.concatenate(evaluate_on_arm(model, batches, profile, emulator, jobs=jobs)) for jobs in (1, 2))
    assert together.shape == (90, 2)
    np.testing.assert_array_equal(together, split)
    np.testing.assert_allclose(together, here, atol=1e-4)


def test_batches_are_those_of_this_machine(tmp_path, emulator) -> None:
    """`batched` and `run_model` together: the same texts in the same batches."""
    model = write_encoder(tmp_path / "model.onnx", SHAPE)
    texts = _texts(20, False)
    rows, batches = zip(*batched(texts), strict=True)
    found = evaluate_on_arm(model, batches, load_profile("cortex-a53"), emulator)
    logits = gather_answers(texts, list(zip(rows, found, strict=True)))
    np.testing.assert_allclose(logits, run_model(open_session(model), texts), atol=1e-4)


def test_what_cannot_be_evaluated_is_said(tmp_path, emulator) -> None:
    profile = load_profile("cortex-a53")
    model = write_encoder(tmp_path / "model.onnx", replace(SHAPE, positions=4))
    with pytest.raises(InputError, match="no inputs"):
        evaluate_on_arm(model, [], profile, emulator)
    ids = np.ones((2, 6), np.int64)
    with pytest.raises(InputError, match=r"model\.onnx cannot be run on ARM"):
        evaluate_on_arm(model, [{"input_ids": ids, "attention_mask": ids}], profile, emulator)
    with pytest.raises(InputError, match="an input other than input_ids"):
        evaluate_on_arm(model, [{"input_ids": ids}], profile, emulator)
    with pytest.raises(InputError, match=r"Cannot read .*gone\.onnx"):
        evaluate_on_arm(tmp_path / "gone.onnx", [{"input_ids": ids, "attention_mask": ids}], profile, emulator)


def test_batches_that_cannot_be_read_are_not_taken_for_none(tmp_path, emulator) -> None:
    """A folder can be opened as a file, but reading it fails."""
    model, profile = write_encoder(tmp_path / "model.onnx", SHAPE), load_profile("cortex-a53")
    with work_folder(emulator, profile) as name:
        work = Path(name) / "work"
        (work / "batches").mkdir()
        runner = emulated_runner(emulator, profile, Path(name), plugin=False)
        [answer] = send(runner, [Request(model, ("evaluate", "batches", "results"))], work, 60)
    assert isinstance(answer, InputError)
    assert "stopped with status 2" in answer.message
