"""Configuration and search dimensions of the transformer family."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from space.config import Bits, StudentConfig
from space.dimensions import Choices, Dimension, Range, check_values, describe, ends

Activation: TypeAlias = Literal["gelu", "gelu_tanh", "relu", "relu_squared"]
Unpacking: TypeAlias = Literal["run", "load"]
MAX_DEPTH = 9
MAX_EXECUTED = 24
SHARED = ("width", "heads", "activation", "unpacking", "layer_repeats")
PER_LAYER = ("ffn_width", "token_keep", "attention_bits", "ffn_bits")


class Layer(BaseModel):
    """One transformer layer.

    Attributes:
        ffn_width: inner width of the feed-forward network.
        token_keep: share of the tokens entering this layer that leave its attention, in (0, 1]; the tokens that
            received least attention go (PoWER-BERT, Goyal et al. 2020). A layer that is repeated prunes the first time.
        attention_bits: bits of the query, key, value and output weights.
        ffn_bits: bits of the feed-forward weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ffn_width: int = Field(ge=16, le=8192, multiple_of=16)
    token_keep: float = Field(gt=0, le=1)
    attention_bits: Bits
    ffn_bits: Bits


class TransformerConfig(StudentConfig):
    """A BERT-like student.

    Attributes:
        width: width of the hidden state; a multiple of `heads`.
        heads: attention heads of every layer.
        activation: of the feed-forward networks; `gelu` is the exact one (erf), `gelu_tanh` its usual
            approximation, `relu_squared` the square of relu (Primer, So et al. 2021).
        unpacking: when weights of 2 and 8 bits become numbers to compute with: at every `run`, or once at `load`,
            after which each takes 4 bytes of heap and products are computed in float32 whatever `accuracy_level`
            says. An A53, which has no dot product, then takes a third to a half of the time at 12 to 32 tokens;
            see `tests/benchmarks/what_is_slow_on_arm.py`.
        layer_repeats: how many times the layers are gone through, one after another, with the same weights
            (ALBERT, Lan et al. 2020, arXiv 1909.11942; in cycles as Takase & Kiyono 2021, arXiv 2104.06022, found
            best). Bytes are counted once, computation each time. After two epochs of 10,000 examples of SST-2 it did
            not pay: the divergence from the teacher is 0.284 with two layers of 128, 0.292 with the same gone through
            twice, and 0.294 with one of 192 three times, all of 480 kB (accuracy 0.812, 0.818, 0.813; one seed).
        layers: from the embeddings to the head.
    """

    family: Literal["transformer"] = "transformer"
    width: int = Field(ge=16, le=1024, multiple_of=16)
    heads: int = Field(ge=1, le=64)
    activation: Activation
    unpacking: Unpacking = "run"
    layer_repeats: int = Field(default=1, ge=1, le=MAX_EXECUTED)
    layers: tuple[Layer, ...] = Field(min_length=1, max_length=MAX_DEPTH)

    @model_validator(mode="after")
    def _divisible(self) -> TransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if len(self.layers) * self.layer_repeats > MAX_EXECUTED:
            raise ValueError(f"{len(self.layers)} layers {self.layer_repeats} times are more than {MAX_EXECUTED}")
        return self

    def executed_layers(self) -> list[tuple[int, Layer]]:
        """What is computed, in order: the number of a layer, and the layer as it works that time."""
        own = list(enumerate(self.layers))
        if self.layer_repeats == 1:  # nearly always, and a search asks for thousands
            return own
        later = [(index, layer.model_copy(update={"token_keep": 1.0})) for index, layer in own]
        return own + later * (self.layer_repeats - 1)

    def summary(self) -> str:
        """As in `3 x 192, 4 heads, ffn 512/512/256, bits 4:8.4/4.4/2.4, tokens 1/.5/1, vocabulary 20 %`."""
        bits = "/".join(f"{layer.attention_bits}.{layer.ffn_bits}" for layer in self.layers)
        ffn = "/".join(str(layer.ffn_width) for layer in self.layers)
        keep = "/".join(f"{layer.token_keep:g}".lstrip("0") for layer in self.layers)
        size = f"{len(self.layers)} x {self.width}" + (f" {self.layer_repeats} times" if self.layer_repeats > 1 else "")
        return (
            f"{size}, {self.heads} heads, ffn {ffn}, bits {self.embedding_bits}:{bits}, "
            f"tokens {keep}, embedding {self.embedding_width}, vocabulary {self.vocabulary_keep:.3g}"
        )


class TransformerDimensions(BaseModel):
    """Section `space: transformer:` of a study file; the last four are chosen for each layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: Dimension = Range(low=1, high=4)
    width: Dimension = Choices(values=(96, 128, 192, 256))
    heads: Dimension = Choices(values=(2, 4, 8))
    activation: Dimension = Choices(values=("gelu", "relu"))
    unpacking: Dimension = Choices(values=("run",))
    layer_repeats: Dimension = Choices(values=(1,))
    ffn_width: Dimension = Choices(values=(128, 256, 384, 512, 768))
    token_keep: Dimension = Choices(values=(1.0, 0.75, 0.5))
    attention_bits: Dimension = Choices(values=(2, 4, 8))
    ffn_bits: Dimension = Choices(values=(2, 4, 8))

    @model_validator(mode="after")
    def _fits(self) -> TransformerDimensions:
        for name in SHARED:
            check_values(name, getattr(self, name), TransformerConfig)
        for name in PER_LAYER:
            check_values(name, getattr(self, name), Layer)
        depths = ends(self.depth)
        if not all(isinstance(depth, int) and 1 <= depth <= MAX_DEPTH for depth in depths):
            raise ValueError(f"depth should be whole numbers from 1 to {MAX_DEPTH}, not {describe(self.depth)}")
        deepest = max(int(depth) for depth in depths)
        if deepest * max(int(repeats) for repeats in ends(self.layer_repeats)) > MAX_EXECUTED:
            raise ValueError(f"depth times layer_repeats should be at most {MAX_EXECUTED}")
        if not (isinstance(self.width, Choices) and isinstance(self.heads, Choices)):
            raise ValueError("width and heads should be lists of choices, so that heads divide widths")
        for width in self.width.values:
            for heads in self.heads.values:
                if int(width) % int(heads):
                    raise ValueError(f"width {width} is no multiple of heads {heads}")
        return self
