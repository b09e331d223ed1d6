"""Trials as a flat table, for pandas and its like. Nothing is read back from it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from search.exchange.content import TrialContent
from search.states import BYTES, ERROR, RECORD, Objective

_MEASURED = ("quality", "deployed_bytes", "latency_ms", "long_latency_ms", "peak_heap_bytes")


def parquet(trials: Sequence[TrialContent], objectives: Sequence[Objective]) -> bytes:
    """One row per trial: state, values of the objectives, what was measured, parameters (`params.NAME`)."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    names = sorted({name for trial in trials for name in trial.params})
    rows = [_row(trial, objectives, names) for trial in trials]
    fields = [("number", pa.int64()), ("state", pa.string())]
    fields += [(f"values.{name}", pa.float64()) for name in objectives]
    fields += [(name, pa.float64()) for name in _MEASURED]
    fields += [("error", pa.string()), ("started", pa.timestamp("us")), ("ended", pa.timestamp("us"))]
    for name in names:
        values = [row[f"params.{name}"] for row in rows]
        numbers = all(value is None or isinstance(value, (int, float)) for value in values)
        if not numbers:
            for row in rows:
                value = row[f"params.{name}"]
                row[f"params.{name}"] = value if value is None or isinstance(value, str) else json.dumps(value)
        fields.append((f"params.{name}", pa.float64() if numbers else pa.string()))
    target = io.BytesIO()
    write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), target, compression="zstd")
    return target.getvalue()


def _row(trial: TrialContent, objectives: Sequence[Objective], names: Sequence[str]) -> dict[str, Any]:
    record = trial.attributes.get(RECORD, {})
    latency, long = record.get("latency") or {}, record.get("long_latency") or {}
    heaps = [reading["peak_heap_bytes"] for reading in (latency, long) if reading.get("peak_heap_bytes") is not None]
    values: Sequence[float | None] = trial.values or [None] * len(objectives)
    return {
        "number": trial.number,
        "state": trial.state,
        **{f"values.{name}": value for name, value in zip(objectives, values, strict=True)},
        "quality": record.get("quality"),
        "deployed_bytes": record.get("deployed_bytes", trial.attributes.get(BYTES)),
        "latency_ms": latency.get("milliseconds"),
        "long_latency_ms": long.get("milliseconds"),
        "peak_heap_bytes": max(heaps, default=None),
        "error": trial.attributes.get(ERROR),
        "started": trial.started,
        "ended": trial.ended,
        **{f"params.{name}": trial.params.get(name) for name in names},
    }
