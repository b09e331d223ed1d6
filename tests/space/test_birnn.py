"""The birnn family: what the file answers, and that directions, gates and padding are as torch has them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from space import InputError, SpaceSpec, TaskShape
from space.families import get_family, parse_config
from space.families.birnn.config import RecurrentLayer
from space.families.birnn.module import BidirectionalLayer, reversed_places

CHOICES = {"depth": [1, 2], "hidden_width": [32, 64], "pooling": ["mean", "max"], "unpacking": ["run", "load"]}


def config_of(bits: int = 4, **changes):
    layer = {"hidden_width": 32, "input_bits": bits, "recurrent_bits": bits}
    fields = {"vocabulary_keep": 0.1, "embedding_width": 48, "embedding_bits": bits, "block_size": 32}
    fields |= {"accuracy_level": 0, "cell": "lstm", "width": 32, "projection_bits": bits, "layers": [layer]}
    return parse_config({"family": "birnn", **fields, **changes})


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
