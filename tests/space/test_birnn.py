"""The birnn family: what the file answers, and that directions, gates and padding are as torch has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_parity import TOLERANCE, random_inputs, session
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from space import InputError, JointSpace, SpaceSpec, TaskShape
from space.families import build_student, export_model, get_family, parse_config
from space.families.birnn.config import RecurrentLayer
from space.families.birnn.module import BidirectionalLayer, reversed_places

CHOICES = {"depth": [1, 2], "hidden_width": [32, 64], "pooling": ["mean", "max"], "unpacking": ["run", "load"]}
SPACE = SpaceSpec(families=["birnn"], accuracy_level=0, block_size=[16, 32, 64, 128], birnn=CHOICES)


def config_of(bits: int = 4, **changes):
    layer = {"hidden_width": 32, "input_bits": bits, "recurrent_bits": bits}
    fields = {"vocabulary_keep": 0.1, "embedding_width": 48, "embedding_bits": bits, "block_size": 32}
    fields |= {"accuracy_level": 0, "cell": "lstm", "width": 32, "projection_bits": bits, "layers": [layer]}
    return parse_config({"family": "birnn", **fields, **changes})


def with_biases(student):
    """A student whose biases are no zeros, and whose logits are of the size that training gives."""
    with torch.no_grad():
        student.head.weight.mul_(20)
        for layer in student.layers:
            for bias in (layer.bias, layer.inner_bias):
                if bias is not None:
                    bias.add_(torch.randn_like(bias) * 0.3)
    return student.eval()


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_onnx_and_torch_logits_agree_batched_and_one_by_one(bits, cell, per_token, vocabulary):
    """At every bit-width; other choices are drawn. Alone there is no padding: none leaks into either direction."""
    generator = np.random.default_rng([bits, per_token])
    for clipping in ("none", "searched"):
        drawn, _ = JointSpace(SPACE).draw(generator)
        layers = [{**layer.model_dump(), "input_bits": bits, "recurrent_bits": bits} for layer in drawn.layers]
        changes = {"cell": cell, "projection_bits": bits, "embedding_bits": bits, "layers": layers}
        config = parse_config({**drawn.model_dump(), **changes})
        shape = TaskShape(outputs=3, segments=1 + (clipping == "none"), max_length=40, per_token=per_token)
        size = vocabulary.size(config.vocabulary_keep)
        torch.manual_seed(bits)
        student = with_biases(build_student(config, shape, size))
        student.use_clipping(clipping)
        run = session(export_model(config, shape, size, student))
        feed = random_inputs(generator, shape, size)
        with torch.no_grad():
            expected = student(**{name: torch.from_numpy(array) for name, array in feed.items()}).numpy()
        present = feed["attention_mask"] == 1
        batched = run.run(["logits"], feed)[0]
        compared = (batched[present], expected[present]) if per_token else (batched, expected)
        np.testing.assert_allclose(*compared, atol=TOLERANCE)
        for row, length in enumerate(present.sum(1)):
            alone = run.run(["logits"], {name: array[row : row + 1, :length] for name, array in feed.items()})[0]
            wanted = expected[row, :length] if per_token else expected[row]
            np.testing.assert_allclose(alone[0], wanted, atol=TOLERANCE)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_layer_is_that_of_torch_on_packed_sequences(cell):
    torch.manual_seed(0)
    own = BidirectionalLayer(cell, 24, RecurrentLayer(hidden_width=16, input_bits=8, recurrent_bits=8), 16)
    other = (nn.LSTM if cell == "lstm" else nn.GRU)(24, 16, batch_first=True, bidirectional=True)
    own.input.rounding = own.recurrent.rounding = False
    with torch.no_grad():
        own.bias.normal_()
        halves = {"weight_ih": own.input.weight, "weight_hh": own.recurrent.weight, "bias_ih": own.bias}
        for name, value in halves.items():
            for suffix, half in zip(("_l0", "_l0_reverse"), value.chunk(2), strict=True):
                getattr(other, name + suffix).copy_(half)
        for suffix in ("_l0", "_l0_reverse"):
            getattr(other, "bias_hh" + suffix).zero_()
        if own.inner_bias is not None:
            own.inner_bias.normal_()
            for half, suffix in zip(own.inner_bias.chunk(2), ("_l0", "_l0_reverse"), strict=True):
                getattr(other, "bias_hh" + suffix)[32:].copy_(half)
    x, lengths = torch.randn(3, 9, 24), torch.tensor([9, 5, 1])
    mask = (torch.arange(9) < lengths[:, None]).long()
    packed = other(pack_padded_sequence(x, lengths, batch_first=True))[0]
    expected = pad_packed_sequence(packed, batch_first=True)[0]
    found = own(x, reversed_places(mask)) * mask[:, :, None]
    torch.testing.assert_close(found, expected)


def test_bits_are_bytes_of_the_file():
    shape = TaskShape(outputs=2, segments=1, max_length=64)
    parts = [sum(get_family("birnn").part_sizes(config_of(bits), shape, 1000)) for bits in (2, 4, 8)]
    entries = 1000 * 48 + 2 * 4 * 32 * (48 + 32) + 64 * 32  # embeddings, both directions, projection
    filled = 2 * 4 * 32 * 16  # the second block of the weights on 48 inputs
    for fewer, more, bits in ((parts[0], parts[1], 2), (parts[1], parts[2], 4)):
        assert more - fewer == pytest.approx((entries + filled) * bits / 8, abs=1000)  # 8 bits take fewer operators


def test_tags_are_not_pooled() -> None:
    family = get_family("birnn")
    assert family.misfit(SpaceSpec(birnn=CHOICES).birnn, per_token=True).startswith("space.birnn.pooling should be")
    assert family.misfit(SpaceSpec(birnn=CHOICES).birnn, per_token=False) is None
    assert family.misfit(SpaceSpec().birnn, per_token=True) is None


def test_a_third_layer_is_refused() -> None:
    with pytest.raises((InputError, ValueError), match="whole numbers from 1 to 2"):
        SpaceSpec(birnn={"depth": [1, 3]})


@pytest.mark.parametrize("name", ["transformer", "birnn"])
def test_blocks_hold_every_parameter_but_those_of_the_head_once(name: str) -> None:
    config, _ = JointSpace(SpaceSpec(families=[name], transformer={"depth": 3}, birnn={"depth": 2})).draw(
        np.random.default_rng(0)
    )
    student = build_student(config, TaskShape(outputs=2, segments=2, max_length=32), 300)
    student.use_clipping("learned")
    blocks = student.blocks()
    assert len(blocks) == 4
    wanted = {id(value) for key, value in student.named_parameters() if not key.startswith("head.")}
    assert sorted(id(value) for block in blocks for value in block) == sorted(wanted)
    assert any(value is student.word.weight for value in blocks[-1])
