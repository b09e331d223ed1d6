"""Products with operands rounded to bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from space.layers import QuantizedLinear
from space.product import bfloat16_products, linear


def operands() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 5, 48), (24, 48), (24,), (2, 5, 24)
    x, weight, bias, gradient = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, bias, gradient


def gradients(function: object, x: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
    *inputs, gradient = (x, *others)
    leaves = [value.clone().requires_grad_() for value in inputs]
    function(*leaves).backward(gradient)  # type: ignore[operator]
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def test_results_and_gradients_are_those_of_rounded_operands() -> None:
    x, weight, bias, gradient = operands()
    rounded = [value.bfloat16().float() for value in (x, weight)]
    with bfloat16_products():
        found = linear(x, weight, bias)
        own = gradients(linear, x, weight, bias, gradient)
    assert found.dtype == torch.float32
    expected = functional.linear(*rounded).bfloat16().float() + bias
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    reduced = gradient.bfloat16().float()
    products = [reduced @ rounded[1], reduced.flatten(0, 1).T @ rounded[0].flatten(0, 1)]
    for one, other in zip(own, products, strict=False):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(own[2], gradient.sum((0, 1)))


def test_the_context_ends_and_can_be_off() -> None:
    x, weight, bias, _ = operands()
    exact = functional.linear(x, weight, bias)
    with bfloat16_products():
        assert not torch.equal(linear(x, weight, bias), exact)
        with bfloat16_products(enabled=False):
            assert torch.equal(linear(x, weight, bias), exact)
    assert torch.equal(linear(x, weight, bias), exact)


def test_gradients_reach_what_comes_before_two_layers() -> None:
    torch.manual_seed(0)
    first, second = (QuantizedLinear(32, 32, bits=4, block_size=32) for _ in range(2))
    x = torch.randn(3, 32, requires_grad=True)
    with bfloat16_products():
        second(torch.relu(first(x))).sum().backward()
    for value in (x, first.weight, first.bias, second.weight, second.bias):
        assert value.grad is not None
        assert float(value.grad.abs().sum()) > 0


@pytest.mark.parametrize("shape", [(7, 32), (2, 3, 32)])
def test_shapes_are_kept(shape: tuple[int, ...]) -> None:
    with bfloat16_products():
        assert linear(torch.randn(shape), torch.randn(16, 32), torch.zeros(16)).shape == (*shape[:-1], 16)
