"""What each operation of a cell costs, in this project's bytes and milliseconds in place of FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from space.config import StudentConfig
from space.families.conv.config import ConvConfig, Edge, Node, Operation

_EMPTY = Edge(input="cell-1", operation="zero")


def operation_costs(
    config: ConvConfig,
    operations: Sequence[Operation],
    count_bytes: Callable[[StudentConfig], int],
    predict: Callable[[StudentConfig], dict[str, float]],
) -> list[float]:
    """Of each operation the mean of its bytes and its latency, both relative to the largest; in [0, 1].

    An operation costs what a cell with it costs more than one without. Where latency cannot be predicted, bytes count
    alone.

    Args:
        config: brings all but the cell.
        operations: to be priced.
        count_bytes: deployed bytes of a configuration.
        predict: `latency_ms` of a configuration, or nothing.
    """

    def with_edge(operation: Operation) -> ConvConfig:
        own = Edge(input="cell-1", operation=operation)
        kept = Node(left=own, right=Edge(input="cell-1", operation="identity"))
        empty = Node(left=_EMPTY, right=_EMPTY)
        return config.model_copy(update={"depth": 1, "nodes": (kept, empty, empty)})

    priced = [with_edge(operation) for operation in ("zero", *operations)]
    measures = [[float(count_bytes(one)) for one in priced]]
    latencies = [predict(one).get("latency_ms") for one in priced]
    known = [latency for latency in latencies if latency is not None]
    if len(known) == len(priced):
        measures.append(known)
    relative = []
    for values in measures:
        added = [max(0.0, value - values[0]) for value in values[1:]]
        largest = max(added) or 1.0
        relative.append([value / largest for value in added])
    return [sum(parts) / len(parts) for parts in zip(*relative, strict=True)]
