"""Fill the layers of a transformer student from a teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from space.families.base import ProjectedLayer
from space.layers import QuantizedLinear

# Heads and entries that the teacher has nothing for stay random, but small, so that they disturb nothing at first.
_LEFT_OVER = 0.1


@torch.no_grad()
def start_layer(
    qkv: QuantizedLinear,
    out: QuantizedLinear,
    norm1: nn.LayerNorm,
    up: QuantizedLinear,
    down: QuantizedLinear,
    norm2: nn.LayerNorm,
    heads: int,
    layer: ProjectedLayer,
) -> None:
    """Overwrite the weights of one layer; the most important heads and neurons of the teacher come first."""
    width = out.weight.shape[0]
    size = qkv.weight.shape[0] // (3 * heads)
    taken = min(heads, len(layer.query))
    weights = qkv.weight.view(3, heads, size, width).mul_(_LEFT_OVER)
    biases = qkv.bias.view(3, heads, size).zero_()
    mixing = out.weight.mul_(_LEFT_OVER).view(width, heads, size)
    for head in range(taken):
        found = _fit_head(layer, head, size)
        kept = found[0].shape[0]
        for part in range(3):
            weights[part, head, :kept] = found[part]
        biases[0, head, :kept], biases[1, head, :kept] = found[3], found[4]
        mixing[:, head, :kept] = found[5]
    # States are centred, so that what a layer adds has a mean of zero; the biases of values and `out` would shift it.
    out.bias.zero_()
    _start_norm(norm1, layer.middle_gain)
    inner = min(up.weight.shape[0], len(layer.up))
    up.weight.mul_(_LEFT_OVER)
    down.weight.mul_(_LEFT_OVER)
    up.weight[:inner], up.bias[:inner] = layer.up[:inner], layer.up_bias[:inner]
    down.weight[:, :inner] = layer.down[:, :inner]
    down.bias.copy_(-layer.down[:, :inner] @ layer.neuron_mean[:inner])
    _start_norm(norm2, layer.gain)


def _fit_head(layer: ProjectedLayer, head: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Query, key and value [n, width], biases of the first two [n], output [width, n] of one head, n at most `size`.

    Where the teacher's head is larger, queries and keys keep the directions that matter most to either, and values
    those of largest power; the temperature of the softmax stays what it was.
    """
    query, key, value = layer.query[head], layer.key[head], layer.value[head]
    query_bias, key_bias, out = layer.query_bias[head], layer.key_bias[head], layer.out[:, head]
    own = query.shape[0]
    if size < own:
        kept = torch.linalg.svd(torch.cat([query, key], 1), full_matrices=False).U[:, :size].T
        query, key, query_bias, key_bias = kept @ query, kept @ key, kept @ query_bias, kept @ key_bias
        kept = torch.linalg.svd(value, full_matrices=False).U[:, :size].T
        value, out = kept @ value, out @ kept.T
    scale = (size / own) ** 0.25  # of each side; products are divided by the root of the head's own size
    return query * scale, key * scale, value, query_bias * scale, key_bias * scale, out


def _start_norm(norm: nn.LayerNorm, gain: float) -> None:
    norm.weight.fill_(gain)
    norm.bias.zero_()
