"""Pieces that the graphs of families are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from onnx import TensorProto

from space.graph import MICROSOFT, Attribute, Item, Node, Tensor
from space.quantization import block_count, packed_width


class Storage(NamedTuple):
    """How the weights of linear maps are stored and read."""

    block_size: int
    accuracy_level: int
    unpacking: str

    @classmethod
    def of(cls, config: Any) -> Storage:
        """As a configuration says, which has fields of these names."""
        return cls(config.block_size, config.accuracy_level, config.unpacking)

    def unpacks(self, bits: int) -> bool:
        """Whether weights of so many bits are unpacked when the file is loaded.

        Those of 4 bits never: unpacking them at each run costs an A53 about 2 instructions a weight, against 26
        for 2 bits and 16 for 8.
        """
        return self.unpacking == "load" and bits != 4


def table(name: str, ids: str, rows: int, width: int, bits: int, block_size: int) -> Iterator[Item]:
    """A quantised embedding table, looked up at `ids`; the answer is called `name`."""
    yield Tensor(f"{name}.q", (rows, packed_width(width, bits)), TensorProto.UINT8)
    yield Tensor(f"{name}.scale", (rows, block_count(width, block_size)))
    attributes = {"bits": bits, "block_size": block_size, "gather_axis": 0, "quantize_axis": 1}
    yield node("GatherBlockQuantized", f"{name}.q {ids} {name}.scale", name, MICROSOFT, **attributes)


def linear(
    name: str, source: str, target: str, inputs: int, outputs: int, bits: int, storage: Storage, again: bool = False
) -> Iterator[Item]:
    """A quantised linear map with bias; needs `linear_constants` where the storage unpacks these bits.

    With `again`, the weights of that name stand in the graph already, and only their use is described.
    """
    blocks = block_count(inputs, storage.block_size)
    if not again:
        yield Tensor(f"{name}.q", (outputs, blocks, packed_width(storage.block_size, bits)), TensorProto.UINT8)
        yield Tensor(f"{name}.scale", (outputs, blocks))
        yield Tensor(f"{name}.bias", (outputs,))
    if storage.unpacks(bits):
        product = f"{target}.p" if again else f"{name}.p"
        if not again:
            yield from unpack(name, bits, inputs, blocks * storage.block_size)
        yield node("FusedMatMul", f"{source} {name}.w", product, MICROSOFT, transB=1)
        yield node("Add", f"{product} {name}.bias", target)
        return
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": storage.block_size}
    attributes["accuracy_level"] = storage.accuracy_level
    weights = (f"{name}.q", f"{name}.scale", "", "", f"{name}.bias")
    yield Node("MatMulNBits", (source, *weights), (target,), MICROSOFT, tuple(attributes.items()))


def linear_constants() -> Iterator[Item]:
    """What all maps share whose weights are unpacked when the file is loaded."""
    yield vector("unpack.axis", -1)
    yield vector("unpack.start", 0)
    yield vector("unpack.input_axis", 1)
    yield vector("unpack.blocks", 0, 0, -1)
    yield vector("unpack.rows", 0, -1)
    for bits in (2, 8):
        yield scalar(f"unpack.middle{bits}", float(1 << (bits - 1)))
    yield Tensor("unpack.shifts", (4,), TensorProto.UINT8, (0, 2, 4, 6))
    yield Tensor("unpack.lowest", (), TensorProto.UINT8, (3,))


def four_bit_constants() -> Iterator[Item]:
    """What all maps of 4 bits share that are unpacked when the file is loaded, beside `linear_constants`."""
    yield scalar("unpack.middle4", 8.0)
    yield Tensor("unpack.shifts4", (2,), TensorProto.UINT8, (0, 4))
    yield Tensor("unpack.lowest4", (), TensorProto.UINT8, (15,))


def unpack(name: str, bits: int, inputs: int, filled: int) -> Iterator[Item]:
    """`<name>.w` [outputs, inputs] by standard operators on weights alone; needs `linear_constants`, and of 4 bits
    `four_bit_constants`.

    ONNX Runtime folds these when it loads the file; its own operators for packed weights it would not.
    """
    steps: list[Node] = []

    def then(operator: str, operand: str = "", **attributes: Attribute) -> None:
        source = steps[-1].outputs[0] if steps else f"{name}.q"
        steps.append(node(operator, f"{source} {operand}", f"{name}.{len(steps)}", "", **attributes))

    if bits < 8:
        of_bits = "4" if bits == 4 else ""
        then("Unsqueeze", "unpack.axis")
        then("BitShift", f"unpack.shifts{of_bits}", direction="RIGHT")
        then("BitwiseAnd", f"unpack.lowest{of_bits}")
        then("Reshape", "unpack.blocks")
    then("Cast", to=TensorProto.FLOAT)
    then("Sub", f"unpack.middle{bits}")
    yield node("Unsqueeze", f"{name}.scale unpack.axis", f"{name}.s")
    then("Mul", f"{name}.s")
    then("Reshape", "unpack.rows")
    if filled != inputs:
        yield vector(f"{name}.inputs", inputs)
        then("Slice", f"unpack.start {name}.inputs unpack.input_axis")
    yield from (*steps[:-1], replace(steps[-1], outputs=(f"{name}.w",)))


def scalar(name: str, value: int | float) -> Tensor:
    """A constant, float32 or int64."""
    return Tensor(name, (), TensorProto.FLOAT if isinstance(value, float) else TensorProto.INT64, (value,))


def vector(name: str, *values: int) -> Tensor:
    """A constant of int64."""
    return Tensor(name, (len(values),), TensorProto.INT64, values)


def node(operator: str, inputs: str, outputs: str, domain: str = "", **attributes: Attribute) -> Node:
    """An operator; names are separated by spaces."""
    return Node(operator, tuple(inputs.split()), tuple(outputs.split()), domain, tuple(attributes.items()))
