"""Configuration and search dimensions of the birnn family."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from space.config import Bits, StudentConfig
from space.dimensions import Choices, Dimension, check_values, describe, ends, is_fixed

Cell: TypeAlias = Literal["lstm", "gru"]
Pooling: TypeAlias = Literal["mean", "max"]
Unpacking: TypeAlias = Literal["run", "load"]
MAX_DEPTH = 2
SHARED = ("cell", "width", "projection_bits", "pooling", "unpacking")
PER_LAYER = ("hidden_width", "input_bits", "recurrent_bits")


class RecurrentLayer(BaseModel):
    """One bidirectional recurrent layer.

    Attributes:
        hidden_width: of the hidden state of each direction; the layer answers twice as much. Every step reads the
            recurrent weights of a direction again, which take 4 bytes each then: where they do not fit the second-level
            cache, time jumps. On the emulated A76 (512 kB), at 11 tokens, an LSTM of 160 (410 kB) takes 0.76 ms, one of
            192 (590 kB) 2.39 ms, a GRU of 192 (442 kB) 0.85 ms.
        input_bits: bits of the weights on what enters the layer.
        recurrent_bits: bits of the weights on the hidden state.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_width: int = Field(ge=16, le=1024, multiple_of=16)
    input_bits: Bits
    recurrent_bits: Bits


class BirnnConfig(StudentConfig):
    """A student of bidirectional recurrent layers.

    Attributes:
        cell: `lstm`, as the paper has it, or `gru`, with three gates in place of four.
        width: of the hidden states behind the projection: what is pooled, compared with the teacher and classified.
        projection_bits: bits of the projection's weights.
        pooling: how the states of a text become one: their mean, or the largest of each component; without meaning
            where every token has logits.
        unpacking: of the projection: when its weights of 2 and 8 bits become numbers to compute with, as
            `space.families.transformer.TransformerConfig.unpacking`. Those of the recurrent layers always are at load.
        layers: from the embeddings to the projection.
    """

    family: Literal["birnn"] = "birnn"
    cell: Cell
    width: int = Field(ge=16, le=1024, multiple_of=16)
    projection_bits: Bits
    pooling: Pooling = "mean"
    unpacking: Unpacking = "run"
    layers: tuple[RecurrentLayer, ...] = Field(min_length=1, max_length=MAX_DEPTH)

    def summary(self) -> str:
        """As in `LSTM 192, width 256, bits 4:8.4:4, mean, embedding 64, vocabulary 20 %`."""
        hidden = "/".join(str(layer.hidden_width) for layer in self.layers)
        bits = "/".join(f"{layer.input_bits}.{layer.recurrent_bits}" for layer in self.layers)
        return (
            f"{self.cell.upper()} {hidden}, width {self.width}, bits {self.embedding_bits}:{bits}:"
            f"{self.projection_bits}, {self.pooling}, embedding {self.embedding_width}, "
            f"vocabulary {self.vocabulary_keep:.3g}"
        )


class BirnnDimensions(BaseModel):
    """Section `space: birnn:` of a study file; the last three are chosen for each layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: Dimension = Choices(values=(1,))
    cell: Dimension = Choices(values=("lstm", "gru"))
    width: Dimension = Choices(values=(96, 128, 192, 256))
    projection_bits: Dimension = Choices(values=(2, 4, 8))
    pooling: Dimension = Choices(values=("mean",))
    unpacking: Dimension = Choices(values=("run",))
    hidden_width: Dimension = Choices(values=(64, 96, 128, 192, 256))
    input_bits: Dimension = Choices(values=(2, 4, 8))
    recurrent_bits: Dimension = Choices(values=(2, 4, 8))

    @model_validator(mode="after")
    def _fits(self) -> BirnnDimensions:
        for name in SHARED:
            check_values(name, getattr(self, name), BirnnConfig)
        for name in PER_LAYER:
            check_values(name, getattr(self, name), RecurrentLayer)
        if not all(isinstance(depth, int) and 1 <= depth <= MAX_DEPTH for depth in ends(self.depth)):
            raise ValueError(f"depth should be whole numbers from 1 to {MAX_DEPTH}, not {describe(self.depth)}")
        return self

    @property
    def pools_in_two_ways(self) -> bool:
        """Whether there is a choice of pooling."""
        return not is_fixed(self.pooling)
