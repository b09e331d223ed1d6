"""A selection as rows, JSON, CSV, Markdown or Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from space.errors import InputError, OutputError
from space.paths import expanded, ordinary_mode

if TYPE_CHECKING:
    from search.query.selection import SelectedTrial, Selection


def flat_rows(selection: Selection, *, parameters: bool = True) -> list[dict[str, Any]]:
    """One flat row per trial, the same keys for all: measures, then parameters by name."""
    trials = list(selection)
    rows = [_measures(trial) for trial in trials]
    if parameters:
        for row, index in zip(rows, selection.indices, strict=True):
            row |= selection.table.parameters(int(index))
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def _measures(trial: SelectedTrial) -> dict[str, Any]:
    record = trial.record
    tasks: dict[str, float] = {}
    for name, task in record.tasks.items():
        tasks |= {f"{name}.{task.metric}": task.quality, f"{name}.retention": task.retention}
    return {
        "study": trial.study,
        "task": trial.task,
        "trial": trial.number,
        "quality": record.quality,
        "quality_on_arm": record.on_arm.quality if record.on_arm else None,
        "quality_here": record.on_arm.quality_here if record.on_arm else None,
        "arm_examples": record.on_arm.examples if record.on_arm else None,
        "metric": record.metric,
        **tasks,
        "latency_ms": record.latency.milliseconds,
        "device": record.latency.device,
        "tokens": record.latency.tokens,
        "long_latency_ms": record.long_latency.milliseconds if record.long_latency else None,
        "long_tokens": record.long_latency.tokens if record.long_latency else None,
        "peak_heap_bytes": record.costs().get("peak_heap_bytes"),
        "backend": record.latency.backend,
        "calibrated": record.latency.calibrated,
        "deployed_bytes": record.deployed_bytes,
        "student": record.config.summary(),
        "bundle": str(record.bundle),
    }


def as_json(selection: Selection) -> str:
    """The trials with what they were asked for; a value that is not a number is null."""
    answer = {
        "studies": [study.name for study in selection.studies],
        "objectives": list(selection.objectives),
        "where": selection.where,
        "split": "validation",
        "hypervolume": selection.hypervolume(),
        "trials": flat_rows(selection),
    }
    return json.dumps(_finite(answer), indent=2, allow_nan=False)


def as_csv(selection: Selection) -> str:
    """A header line, and a line for each trial."""
    text = io.StringIO()
    rows = flat_rows(selection)
    writer = csv.DictWriter(text, _header(selection, rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def as_markdown(header: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells; `right` says which columns hold figures."""
    lines = [header, ["---:" if figures else "---" for figures in right], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def parquet_bytes(selection: Selection) -> bytes:
    """A Parquet file of the rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = flat_rows(selection)
    columns = {name: _column([row[name] for row in rows]) for name in _header(selection, rows)}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def _header(selection: Selection, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the columns; where no trial is selected, of those that all trials have."""
    shown = rows or flat_rows(replace(selection, indices=np.arange(len(selection.table))))
    return list(shown[0]) if shown else []


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: what is a number here and a text there (a parameter of two families) is a text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values] if len(kinds) > 1 else values
    return values if len(kinds) == 1 else [None if value is None else str(value) for value in values]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(path: Path, content: bytes) -> None:
    """Write a file: all of it, or nothing; in place of one that is there.

    Raises:
        InputError: its folder does not exist, or it is a folder itself.
        OutputError: it cannot be written.
    """
    path = expanded(path).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--output {path}: name a file in a folder that exists.")
    part = ""
    try:
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(part, ordinary_mode())
        os.replace(part, path)
    except OSError as error:
        if part:
            Path(part).unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
