from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from space.config import Clipping
from space.layers import QuantizedEmbedding, QuantizedLinear
from space.quantization import CLIPPING_FACTORS, dequantize, fake_quantize, pack, quantize, search_clipping


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_error_is_at_most_a_step_and_the_largest_entry_is_exact(bits, block_size):
    weight = torch.randn(5, 200, generator=torch.Generator().manual_seed(bits))
    q, scale = quantize(weight, bits, block_size)
    rounded = dequantize(q, scale, bits, 200)
    assert q.min() >= 0
    assert q.max() < 2**bits
    step = scale.abs().repeat_interleave(block_size, -1).flatten(-2)[:, :200]
    # Half a step, but for entries beside the missing step at the positive end.
    assert ((rounded - weight).abs() <= step * 1.0001).all()
    largest = weight.abs().argmax(1)
    rows = torch.arange(5)
    torch.testing.assert_close(rounded[rows, largest], weight[rows, largest])


def test_hand_computed_two_bit_block():
    weight = torch.tensor([[-1.0, 0.4, 0.9, 0.0] + [0.0] * 12])
    q, scale = quantize(weight, 2, 16)
    assert scale.item() == pytest.approx(0.5)
    assert q[0, 0, :4].tolist() == [0.0, 3.0, 3.0, 2.0]
    assert dequantize(q, scale, 2, 4)[0].tolist() == pytest.approx([-1.0, 0.5, 0.5, 0.0])


def test_gradient_is_that_of_the_identity():
    weight = torch.randn(3, 32, requires_grad=True)
    factors = torch.randn(3, 32)
    (fake_quantize(weight, 4, 32) * factors).sum().backward()
    torch.testing.assert_close(weight.grad, factors)


def test_zero_weights_stay_zero():
    assert (fake_quantize(torch.zeros(2, 40), 2, 32) == 0).all()


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.integers(1, 6), st.integers(0, 2**31))
def test_packing_loses_nothing(bits, groups, seed):
    per_byte = 8 // bits
    numbers = np.random.default_rng(seed).integers(0, 2**bits, (3, groups * per_byte))
    packed = pack(torch.from_numpy(numbers).float(), bits)
    unpacked = (packed[..., None] >> (np.arange(per_byte, dtype=np.uint8) * bits)) & (2**bits - 1)
    assert packed.shape == (3, groups)
    np.testing.assert_array_equal(unpacked.reshape(3, -1), numbers)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_searched_factors_have_the_least_error_of_those_tried(bits):
    weight = torch.randn(7, 200, generator=torch.Generator().manual_seed(bits))

    def errors(log_factor: torch.Tensor | None) -> torch.Tensor:
        q, scale = quantize(weight, bits, 64, log_factor)
        error = torch.nn.functional.pad(dequantize(q, scale, bits, 200) - weight, (0, 56))
        return error.unflatten(-1, (-1, 64)).square().sum(-1)

    found = errors(search_clipping(weight, bits, 64))
    tried = [errors(torch.full((7, 4), math.log(factor))) for factor in CLIPPING_FACTORS[bits]]
    torch.testing.assert_close(found, torch.stack(tried).amin(0))
    if bits < 8:
        assert found.sum() < 0.95 * errors(None).sum()


def test_gradient_of_a_learned_factor_is_the_hand_computed_one():
    # Largest entry -1 and factor 1/2: the scale is 1/4, and of the steps -4, 0.4, 1.2 and 3 only 0.4 is not cut off.
    weight = torch.tensor([[-1.0, 0.1, 0.3, 0.75] + [0.0] * 12], requires_grad=True)
    log_factor = torch.tensor([[math.log(0.5)]], requires_grad=True)
    rounded = fake_quantize(weight, 2, 16, log_factor)
    torch.testing.assert_close(rounded[0, :4], torch.tensor([-0.5, 0.0, 0.25, 0.25]))
    factors = torch.arange(1.0, 17.0)[None]
    (rounded * factors).sum().backward()
    assert log_factor.grad.item() == pytest.approx(0.25 * (1 * -2 + 2 * -0.4 + 3 * 1 + 4 * 1))
    torch.testing.assert_close(weight.grad, factors)


@pytest.mark.parametrize("clipping", get_args(Clipping))
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_layers_answer_with_the_very_weights_that_they_export(bits, clipping):
    torch.manual_seed(bits)
    linear, table = QuantizedLinear(40, 6, bits, 32), QuantizedEmbedding(9, 40, bits, 32)
    for layer in (linear, table):
        layer.use_clipping(clipping)
        assert (layer.clipping is None) == (clipping == "none" or (clipping == "auto" and bits > 2))
        if clipping == "learned":
            with torch.no_grad():
                layer.clipping.add_(torch.randn_like(layer.clipping) * 0.2)
    ids = torch.tensor([[3, 8, 3]])
    q, scale = quantize(table.weight.detach(), bits, 32, table._factors())
    torch.testing.assert_close(table(ids), dequantize(q, scale, bits, 40)[ids])
    exported = linear.tensors("x")
    per_byte = 8 // bits
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    codes = (exported["x.q"][..., None] >> shifts & (2**bits - 1)).reshape(6, 2, 32).astype(np.float32)
    weight = ((codes - 2 ** (bits - 1)) * exported["x.scale"][..., None]).reshape(6, 64)[:, :40]
    torch.testing.assert_close(linear(torch.eye(40)) - linear.bias, torch.from_numpy(weight.T.copy()))
    linear.rounding = False
    torch.testing.assert_close(linear(torch.eye(40)) - linear.bias, linear.weight.T)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_training_sees_the_runtime_s_weights_to_the_last_bit(bits: int) -> None:
    torch.manual_seed(bits)
    weight = torch.randn(5, 70, requires_grad=True)
    found = fake_quantize(weight, bits, 32)
    q, scale = quantize(weight.detach(), bits, 32)
    assert torch.equal(found, dequantize(q, scale, bits, 70))
    gradient = torch.randn(5, 70)
    found.backward(gradient)
    assert torch.equal(weight.grad, gradient)
