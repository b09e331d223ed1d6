"""One transformer that holds the weights of many smaller ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from space.families.transformer.config import Layer, TransformerConfig
from space.families.transformer.module import TransformerLayer, TransformerStudent
from space.layers import QuantizedLinear
from space.shape import TaskShape


class Extent(NamedTuple):
    """The largest of each size that an elastic transformer has weights for.

    Heads and their size are apart: of a width of 256, 8 heads have 32 channels each and 2 heads have 128.
    """

    depth: int
    width: int
    heads: int
    head_size: int
    ffn_width: int
    embedding_width: int

    def lacks(self, config: TransformerConfig) -> str | None:
        """Which size of a configuration is larger; None if none is."""
        asked = Extent(
            depth=len(config.layers),
            width=config.width,
            heads=config.heads,
            head_size=config.width // config.heads,
            ffn_width=max(layer.ffn_width for layer in config.layers),
            embedding_width=config.embedding_width,
        )
        for name, own, most in zip(self._fields, asked, self, strict=True):
            if own > most:
                return f"{name} {own}, above {most}"
        return None


class ElasticTransformer(TransformerStudent):
    """Weights that transformers of any size up to an extent are cut from.

    A smaller one takes leading channels, heads, channels of each head and neurons, and layers at even distances
    (DynaBERT, Hou et al. 2020, arXiv 2004.04037). What starts from a teacher has the most important of each in front:
    hidden states and embeddings are principal components, heads and neurons are sorted by what they add to the residual
    stream; `sort_heads` does the same within heads. It computes nothing itself: only what is cut from it does.

    Args:
        extent: the largest of each size.
        shape: of the task.
        entries: rows of the word embeddings.
    """

    def __init__(self, extent: Extent, shape: TaskShape, entries: int) -> None:
        layer = Layer(ffn_width=extent.ffn_width, token_keep=1.0, attention_bits=8, ffn_bits=8)
        largest = TransformerConfig(
            vocabulary_keep=1.0,
            embedding_width=extent.embedding_width,
            embedding_bits=8,
            block_size=32,
            accuracy_level=0,
            width=extent.width,
            heads=1,
            activation="gelu",
            layers=(layer,) * extent.depth,
        )
        super().__init__(largest, shape, entries)
        self.extent = extent
        inner = extent.heads * extent.head_size
        for own in self._layers():
            own.heads = extent.heads
            own.qkv = QuantizedLinear(extent.width, 3 * inner, 8, 32)
            own.out = QuantizedLinear(inner, extent.width, 8, 32)
        self.set_rounding(False)  # what is cut from it is rounded to bits of its own

    def _layers(self) -> list[TransformerLayer]:
        return list(self.layers)  # type: ignore[arg-type]

    @torch.no_grad()
    def sort_heads(self) -> None:
        """Rotate the channels of each head so that the leading ones matter most; what the heads compute stays.

        Queries and keys turn together to the principal directions of both, values to those of their own, and the
        output's columns with them.
        """
        heads, size, width = self.extent.heads, self.extent.head_size, self.extent.width
        for layer in self._layers():
            weights, biases = layer.qkv.weight.view(3, heads, size, width), layer.qkv.bias.view(3, heads, size)
            mixing = layer.out.weight.view(width, heads, size)
            for head in range(heads):
                turn = torch.linalg.svd(torch.cat([weights[0, head], weights[1, head]], 1), full_matrices=False).U.T
                own = torch.linalg.svd(weights[2, head], full_matrices=False).U.T
                if len(turn) < size or len(own) < size:  # heads wider than the hidden state
                    continue
                for part, rotation in ((0, turn), (1, turn), (2, own)):
                    weights[part, head] = rotation @ weights[part, head]
                    biases[part, head] = rotation @ biases[part, head]
                mixing[:, head] = mixing[:, head] @ own.T

    def cut(self, config: TransformerConfig, rows: Tensor | None = None) -> dict[str, Tensor]:
        """The weights of a smaller transformer, by the names of its module; gradients flow back where they are on.

        Queries and keys are scaled so that the temperature of attention is the same for heads of any size.

        Args:
            config: within the extent.
            rows: int64 [vocabulary], the rows of its word embeddings; all by default.

        Raises:
            ValueError: it is larger than the extent.
        """
        if problem := self.extent.lacks(config):
            raise ValueError(f"the supernet has no {problem}")
        width, embedding = config.width, config.embedding_width
        words = self.word.weight if rows is None else self.word.weight[rows]
        found = {
            "word.weight": words[:, :embedding],
            "position.weight": self.position.weight[:, :embedding],
            "norm.weight": self.norm.weight[:embedding],
            "norm.bias": self.norm.bias[:embedding],
            "projection.weight": self.projection.weight[:width, :embedding],
            "projection.bias": self.projection.bias[:width],
            "head.weight": self.head.weight[:, :width],
            "head.bias": self.head.bias,
        }
        if self.segment is not None:
            found["segment.weight"] = self.segment.weight[:, :embedding]
        layers = self._layers()
        for index, place in enumerate(chosen_layers(len(config.layers), len(layers))):
            parts = self._cut_layer(layers[place], config, config.layers[index].ffn_width)
            found.update({f"layers.{index}.{name}": value for name, value in parts.items()})
        return found

    def _cut_layer(self, layer: TransformerLayer, config: TransformerConfig, ffn_width: int) -> dict[str, Tensor]:
        extent, width, heads = self.extent, config.width, config.heads
        size = width // heads
        scale = layer.qkv.weight.new_ones(3)
        scale[:2] = (size / extent.head_size) ** 0.25  # of each side; products are divided by the root of `size`
        weights = layer.qkv.weight.view(3, extent.heads, extent.head_size, extent.width)[:, :heads, :size, :width]
        biases = layer.qkv.bias.view(3, extent.heads, extent.head_size)[:, :heads, :size]
        mixing = layer.out.weight.view(extent.width, extent.heads, extent.head_size)[:width, :heads, :size]
        return {
            "qkv.weight": (weights * scale[:, None, None, None]).reshape(3 * width, width),
            "qkv.bias": (biases * scale[:, None, None]).reshape(3 * width),
            "out.weight": mixing.reshape(width, width),
            "out.bias": layer.out.bias[:width],
            "norm1.weight": layer.norm1.weight[:width],
            "norm1.bias": layer.norm1.bias[:width],
            "up.weight": layer.up.weight[:ffn_width, :width],
            "up.bias": layer.up.bias[:ffn_width],
            "down.weight": layer.down.weight[:width, :ffn_width],
            "down.bias": layer.down.bias[:width],
            "norm2.weight": layer.norm2.weight[:width],
            "norm2.bias": layer.norm2.bias[:width],
        }


def chosen_layers(depth: int, most: int) -> list[int]:
    """Which layers of a transformer of `most` layers one of `depth` takes: at even distances, the last with the last.

    A student that starts from its teacher's layers takes the same ones (`runners.initialization`).
    """
    return [max(round((index + 1) * most / depth) - 1, 0) for index in range(depth)]
