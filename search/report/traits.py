"""What distinguishes the students of a front, as numbers with names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from runners.record import TrialRecord
from space.config import StudentConfig

if TYPE_CHECKING:
    from search.report.gather import Report

_LAYER = {
    "ffn_width": "ffn width",
    "hidden_width": "hidden width",
    "token_keep": "tokens kept",
}
_BITS = "_bits"  # how fields that are bit-widths end


def kind_of(record: TrialRecord) -> str:
    """Family and method of a student, as in `birnn, stagewise`."""
    return record.config.family if record.recipe.schedule == "joint" else f"{record.config.family}, stagewise"


def kinds_of(records: Iterable[TrialRecord]) -> dict[str, int]:
    """How many records there are of each kind, most first."""
    return dict(Counter(map(kind_of, records)).most_common())


@dataclass(frozen=True)
class Trait:
    """One property of each student of a front.

    Attributes:
        name: of the property.
        values: one for each student; NaN where it has none.
    """

    name: str
    values: tuple[float, ...]

    @property
    def low(self) -> str:
        """The least value, as text."""
        return _number(min(self._known))

    @property
    def high(self) -> str:
        """The largest value, as text."""
        return _number(max(self._known))

    @property
    def _known(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)] or [0.0]

    def told(self, index: int) -> str:
        """The value of a student, as text."""
        return _number(self.values[index])

    def place(self, index: int) -> float | None:
        """Where a value lies between the least (0) and the largest (1)."""
        value, low, high = self.values[index], min(self._known), max(self._known)
        return (value - low) / (high - low) if math.isfinite(value) and high > low else None


def traits_of(report: Report) -> list[Trait]:
    """Objectives, size and architecture of the front's students, best quality first."""
    study, front = report.study, report.front
    short = {"quality": study.file.metric, "latency_ms": "latency ms", "long_latency_ms": "long text ms"}
    short |= {"deployed_bytes": "bytes", "peak_heap_bytes": "peak heap"}
    names = list(dict.fromkeys([*study.objectives, "deployed_bytes"]))
    found = [
        Trait(short[name], tuple(float({"quality": r.quality, **r.costs()}.get(name, math.nan)) for r in front))
        for name in names
    ]
    described = [_architecture(record.config) for record in front]
    for name in dict.fromkeys(name for each in described for name in each):
        found.append(Trait(name, tuple(each.get(name, math.nan) for each in described)))
    rates = tuple(record.recipe.learning_rate for record in front)
    return [*found, Trait("learning rate", rates)]


def _architecture(config: StudentConfig) -> dict[str, float]:
    """Numbers of a configuration of any family; of what its layers differ in, the mean."""
    found: dict[str, float] = {
        "vocabulary": config.vocabulary_keep,
        "embedding width": config.embedding_width,
        **{f"{name} bits": bits for name, bits in _bits(config).items()},
    }
    layers = _layers(config)
    depth = len(layers) or getattr(config, "depth", None)  # cells are alike: their number is a field
    if depth is not None:
        found = {"depth": depth, **found}
    for field in ("layer_repeats", "heads", "width"):
        if isinstance(value := getattr(config, field, None), int):
            found = {field.replace("_", " "): value, **found}
    for field, name in _LAYER.items():
        values = [getattr(layer, field) for layer in layers if hasattr(layer, field)]
        if values:
            found[name] = fmean(values)
    for name in _bits(layers[0]) if layers else ():
        found[f"{name} bits"] = fmean(_bits(layer)[name] for layer in layers)
    return found


def _layers(config: StudentConfig) -> Sequence[Any]:
    layers = getattr(config, "layers", ())
    return layers if isinstance(layers, tuple) else ()


def bits_of_modules(configs: Sequence[StudentConfig]) -> tuple[list[str], list[list[int | None]]]:
    """Names of the modules, and their bits [modules, students]; None where a student lacks a module."""
    columns = []
    for config in configs:
        column: dict[str, int] = _bits(config)
        for number, layer in enumerate(_layers(config), 1):
            column.update({f"layer {number} {name}": bits for name, bits in _bits(layer).items()})
        columns.append(column)
    deepest_first = sorted(columns, key=lambda column: -len(column))
    names = list(dict.fromkeys(name for column in deepest_first for name in column))
    return names, [[column.get(name) for column in columns] for name in names]


def _bits(part: BaseModel) -> dict[str, int]:
    """The bit-widths that a configuration, or one of its layers, has itself, by what has them."""
    names = (name for name in type(part).model_fields if name.endswith(_BITS))
    return {name.removesuffix(_BITS): getattr(part, name) for name in names}


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "none"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
