from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from space.quantization import dequantize, fake_quantize, pack, quantize


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
def test_training_sees_the_runtime_s_weights_to_the_last_bit(bits: int) -> None:
    torch.manual_seed(bits)
    weight = torch.randn(5, 70, requires_grad=True)
    found = fake_quantize(weight, bits, 32)
    q, scale = quantize(weight.detach(), bits, 32)
    assert torch.equal(found, dequantize(q, scale, bits, 70))
    gradient = torch.randn(5, 70)
    found.backward(gradient)
    assert torch.equal(weight.grad, gradient)
