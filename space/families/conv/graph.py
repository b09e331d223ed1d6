"""ONNX graph of the convolutional family.

A window of a state is gathered at once: [batch, sequence, taps, width]. A separable convolution is then a product with
its taps and a sum over them, a standard one a single quantised product of all taps, a pool a maximum or mean. All read
a state that is padded at both ends, with padding of a batch set to zeros before (or to `LOWEST`, before a maximum), so
that a text's answer does not depend on what it is batched with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from onnx import TensorProto

from space.families.conv.config import OPERATIONS, ConvConfig, Operation, is_convolution, window_of
from space.families.heads import answers, token_head
from space.families.pieces import Storage, linear, linear_constants, node, scalar, table, vector
from space.graph import MICROSOFT, Item, Part, Tensor
from space.shape import TaskShape

BYTE = 8  # bits of positions and taps
LAYER_NORM_EPSILON = 1e-5
# Stands below any state where there is none; finite, since what is multiplied by a mask of 0 must become 0.
LOWEST = -1e4


class Piece(NamedTuple):
    """Some operators that many configurations share, but for the names of tensors.

    Attributes:
        make: describes them, called with the options, the name of what is inside, what is read, and what is yielded.
        options: all that their shapes depend on beside those of what they read.
        name: of weights and inner tensors.
        reads: tensors.
        yields: tensor.
    """

    make: Callable[..., Iterator[Item]]
    options: tuple[Any, ...]
    name: str
    reads: tuple[str, ...]
    yields: str

    def part(self) -> Part:
        """The operators; the same object for the same piece."""
        return _part(self)


@lru_cache(maxsize=65536)
def _part(piece: Piece) -> Part:
    return Part.of(piece.make(*piece.options, piece.name, *piece.reads, piece.yields))


def describe(config: ConvConfig, shape: TaskShape, vocabulary_size: int) -> list[Part]:
    """The graph from `input_ids`, `attention_mask` (and `token_type_ids`) to `logits`, and those of each task."""
    parts = [embedding(EmbeddingStage.of(config, shape), vocabulary_size)]
    parts += [piece.part() for piece in pieces(config)]
    return [*parts, head(shape, config.width, config.pooling, last_state(config)), *answers(shape)]


class EmbeddingStage(NamedTuple):
    """What of a configuration and a task the embedding part depends on (the key of its cache)."""

    embedding_width: int
    bits: int
    width: int
    storage: Storage
    unpacks: bool
    positions: int
    segments: int
    marks: bool
    used: tuple[Operation, ...]

    @classmethod
    def of(cls, config: ConvConfig, shape: TaskShape) -> EmbeddingStage:
        used = used_operations(config)
        bits = {config.embedding_bits, *(config.conv_bits for operation in used if is_convolution(operation))}
        storage = Storage.of(config)
        return cls(
            config.embedding_width,
            config.embedding_bits,
            config.width,
            storage,
            any(map(storage.unpacks, bits)),
            shape.max_length,
            shape.segments,
            bool(used) or not shape.per_token,
            used,
        )


def used_operations(config: ConvConfig) -> tuple[Operation, ...]:
    """What edges that are computed do, of operations that read a window."""
    found = {edge.operation for edges in config.cell() for edge in edges} if config.executed_cells() else set()
    return tuple(operation for operation in OPERATIONS if operation in found and window_of(operation))


def last_state(config: ConvConfig) -> str:
    """Name of what leaves the last cell, or the embedding stage where there is none."""
    cells = config.executed_cells()
    return f"x{cells[-1] + 1}" if cells else "x0"


@lru_cache(maxsize=4096)
def embedding(stage: EmbeddingStage, vocabulary_size: int) -> Part:
    """From the inputs to `x0` [batch, sequence, width] and, where they are used,

    `present` [batch, sequence] and `mask` [batch, sequence, 1]: 1 for a token, 0 for padding;
    `low`, likewise: 0 for a token, `LOWEST` for padding;
    `window<taps><dilation>` int64 [sequence, taps]: the places in a padded state that a window holds,
    and constants of the pieces.
    """
    width = stage.embedding_width

    def items() -> Iterator[Item]:
        yield from table("word", "input_ids", vocabulary_size, width, stage.bits, stage.storage.block_size)
        yield scalar("byte.middle", float(1 << (BYTE - 1)))
        yield from _bytes("position", stage.positions, width)
        yield vector("start", 0)
        yield node("Shape", "input_ids", "length", start=1, end=2)
        yield node("Slice", "position start length", "places")
        yield node("Add", "word places", "placed")
        embedded = "placed"
        if stage.segments == 2:
            yield Tensor("segment.weight", (2, width))
            yield node("Gather", "segment.weight token_type_ids", "segment")
            yield node("Add", "placed segment", "summed")
            embedded = "summed"
        yield from _norm("embedding", width, embedded, "embedded")
        if stage.unpacks:
            yield from linear_constants()
        yield from linear("projection", "embedded", "x0", width, stage.width, stage.bits, stage.storage)
        if stage.marks:
            yield node("Cast", "attention_mask", "present", to=TensorProto.FLOAT)
        if stage.used:
            yield from _windows(stage.used)

    return Part.of(items())


def window_constants(used: tuple[Operation, ...]) -> Iterator[Item]:
    """What the pieces of such operations read."""
    reach = max(window.reach for window in map(window_of, used) if window)
    yield vector("channel_axis", 2)
    yield vector("pads", 0, reach, 0, 0, reach, 0)
    if "max_pool3" in used:
        yield scalar("lowest", LOWEST)
    if used != ("max_pool3",):
        yield scalar("nothing", 0.0)


def _windows(used: tuple[Operation, ...]) -> Iterator[Item]:
    windows = sorted({window for operation in used if (window := window_of(operation))})
    reach = max(window.reach for window in windows)
    yield from window_constants(used)
    yield node("Unsqueeze", "present channel_axis", "mask")
    yield scalar("first", 0)
    yield scalar("one", 1)
    yield node("Squeeze", "length", "count")
    yield node("Range", "first count one", "order")
    yield vector("tap_axis", 1)
    yield node("Unsqueeze", "order tap_axis", "rows")
    for window in windows:
        name = f"window{window.taps}{window.dilation}"
        half = window.taps // 2
        yield vector(f"{name}.offsets", *(reach + window.dilation * tap for tap in range(-half, half + 1)))
        yield node("Add", f"rows {name}.offsets", name)
    if "max_pool3" in used:
        yield scalar("whole", 1.0)
        yield node("Sub", "whole mask", "absent")
        yield node("Mul", "absent lowest", "low")


class _Block(NamedTuple):
    """What all convolutions share."""

    width: int
    bits: int
    separable: bool
    storage: Storage


def pieces(config: ConvConfig) -> list[Piece]:
    """The cells that are computed, from `x0` to `last_state`; what is needed twice is made once."""
    found: dict[tuple[Any, ...], Piece] = {}
    block = _Block(config.width, config.conv_bits, config.convolution == "separable", Storage.of(config))

    def make(*fields: Any) -> str:
        piece = Piece(*fields)
        # Convolutions have weights of their own, by which they are told apart; all else is what it reads.
        return found.setdefault((piece.make, piece.options, piece.name, piece.reads), piece).yields

    edges_of = config.cell()
    for cell in config.executed_cells():
        states = {"cell-1": f"x{cell}", "cell-2": f"x{max(cell - 1, 0)}"}
        nodes = []
        for number, edges in enumerate(edges_of, start=1):
            name = f"c{cell}.{number}"
            arrived = [
                _edge(block, edge.operation, states[edge.input], f"{name}{side}", make)
                for side, edge in zip("ab", edges, strict=False)
            ]
            if not arrived:
                continue
            state = arrived[0] if len(arrived) == 1 else make(_add, (), "", tuple(sorted(arrived)), name)
            states[f"node{number}"] = state
            nodes.append(state)
        if len(nodes) == 3:
            nodes = [make(_add, (), "", tuple(nodes[:2]), f"c{cell}.s"), nodes[2]]
        make(_answer, (config.width,), f"c{cell}.norm", tuple(nodes), f"x{cell + 1}")
    return list(found.values())


def _edge(block: _Block, operation: Operation, state: str, name: str, make: Callable[..., str]) -> str:
    """Makes the pieces of an edge; answers what it yields."""
    window = window_of(operation)
    if window is None:
        return state
    taken, beyond = state, "nothing"
    if is_convolution(operation):
        taken = make(_activate, (), "", (state,), f"{state}.relu")
    taken = make(_mask, (), "", (taken, "mask"), f"{taken}.kept")
    if operation == "max_pool3":
        taken, beyond = make(_add, (), "", (taken, "low"), f"{state}.low"), "lowest"
    padded = make(_pad, (), "", (taken, "pads", beyond), f"{taken}.padded")
    places = f"window{window.taps}{window.dilation}"
    seen = make(_look, (), "", (padded, places), f"{padded}{window.taps}{window.dilation}")
    if not is_convolution(operation):
        operator = "ReduceMax" if operation == "max_pool3" else "ReduceMean"
        return make(_pool, (operator,), "", (seen,), f"{state}.{operation}")
    kind = _separable
    if not block.separable:
        kind, seen = _standard, make(_flatten, (window.taps * block.width,), seen, (seen,), f"{seen}.flat")
    return make(kind, (block.width, block.bits, block.storage, window.taps), name, (seen,), name)


def _activate(name: str, state: str, target: str) -> Iterator[Item]:
    yield node("Relu", state, target)


def _mask(name: str, state: str, mask: str, target: str) -> Iterator[Item]:
    yield node("Mul", f"{state} {mask}", target)


def _pad(name: str, state: str, pads: str, beyond: str, target: str) -> Iterator[Item]:
    """Rows of `beyond` at both ends."""
    yield node("Pad", f"{state} {pads} {beyond}", target)


def _look(name: str, padded: str, window: str, target: str) -> Iterator[Item]:
    """[batch, sequence, taps, width]"""
    yield node("Gather", f"{padded} {window}", target, axis=1)


def _pool(operator: str, name: str, seen: str, target: str) -> Iterator[Item]:
    yield node(operator, f"{seen} channel_axis", target, keepdims=0)


def _flatten(columns: int, name: str, seen: str, target: str) -> Iterator[Item]:
    yield vector(f"{name}.shape", 0, 0, columns)
    yield node("Reshape", f"{seen} {name}.shape", target)


def _separable(width: int, bits: int, storage: Storage, taps: int, name: str, seen: str, target: str) -> Iterator[Item]:
    yield from _bytes(f"{name}.taps", taps, width)
    yield node("Mul", f"{seen} {name}.taps", f"{name}.weighted")
    yield node("ReduceSum", f"{name}.weighted channel_axis", f"{name}.deep", keepdims=0)
    yield from linear(f"{name}.mix", f"{name}.deep", f"{name}.mixed", width, width, bits, storage)
    yield from _norm(f"{name}.norm", width, f"{name}.mixed", target)


def _standard(width: int, bits: int, storage: Storage, taps: int, name: str, seen: str, target: str) -> Iterator[Item]:
    yield from linear(f"{name}.mix", seen, f"{name}.mixed", taps * width, width, bits, storage)
    yield from _norm(f"{name}.norm", width, f"{name}.mixed", target)


def _add(name: str, left: str, right: str, target: str) -> Iterator[Item]:
    yield node("Add", f"{left} {right}", target)


def _answer(width: int, name: str, *nodes_and_target: str) -> Iterator[Item]:
    """The normalised sum of one or two states."""
    *nodes, target = nodes_and_target
    if len(nodes) == 1:
        yield from _norm(name, width, nodes[0], target)
        return
    yield Tensor(f"{name}.scale", (width,))
    yield Tensor(f"{name}.shift", (width,))
    inputs = f"{nodes[0]} {nodes[1]} {name}.scale {name}.shift"
    yield node("SkipLayerNormalization", inputs, target, MICROSOFT, epsilon=LAYER_NORM_EPSILON)


def _norm(name: str, width: int, source: str, target: str) -> Iterator[Item]:
    yield Tensor(f"{name}.scale", (width,))
    yield Tensor(f"{name}.shift", (width,))
    inputs = f"{source} {name}.scale {name}.shift"
    yield node("LayerNormalization", inputs, target, axis=-1, epsilon=LAYER_NORM_EPSILON)


def _bytes(name: str, rows: int, width: int) -> Iterator[Item]:
    """A small table of 8 bits; no input leads to it, so that ONNX Runtime unpacks it once, when it loads the file."""
    yield Tensor(f"{name}.q", (rows, width), TensorProto.UINT8)
    yield Tensor(f"{name}.scale", (rows, 1))
    yield node("Cast", f"{name}.q", f"{name}.codes", to=TensorProto.FLOAT)
    yield node("Sub", f"{name}.codes byte.middle", f"{name}.steps")
    yield node("Mul", f"{name}.steps {name}.scale", name)


@lru_cache(maxsize=4096)
def head(shape: TaskShape, width: int, pooling: str, state: str) -> Part:
    """From the last states to `logits`: of each token, or of their mean."""
    if shape.per_token:
        return token_head(width, shape.outputs, state)

    def items() -> Iterator[Item]:
        yield Tensor("head.weight", (shape.outputs, width))
        yield Tensor("head.bias", (shape.outputs,))
        yield from _shares(width, pooling, state)
        yield node("MatMul", f"shares {state}", "means")
        yield node("Squeeze", "means middle_axis", "pooled")
        yield node("Gemm", "pooled head.weight head.bias", "logits", transB=1)

    return Part.of(items())


def _shares(width: int, pooling: str, state: str) -> Iterator[Item]:
    """What share of a text's state each token has, [batch, 1, sequence]."""
    yield vector("middle_axis", 1)
    yield node("Unsqueeze", "present middle_axis", "tokens")
    if pooling == "mean":
        yield node("LpNormalization", "tokens", "shares", axis=-1, p=1)
        return
    yield Tensor("query", (1, width))
    yield node("FusedMatMul", f"query {state}", "asked", MICROSOFT, transB=1)
    yield node("Log", "tokens", "bias")
    yield node("Add", "asked bias", "scores")
    yield node("Softmax", "scores", "shares", axis=-1)
