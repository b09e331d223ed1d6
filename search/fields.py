"""Measures and parameters of a trial by name, read from what is stored of it (the JSON of a `TrialRecord`).

A record of 10,000 trials takes seconds to check and build; a query reads two or three values of each. So it reads them
here, and builds the records of the trials that it hands out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from objectives.pareto import Direction

Content = Mapping[str, Any]

_PATHS: dict[str, tuple[str, ...]] = {
    "quality": ("quality",),
    "quality_on_arm": ("on_arm", "quality"),
    "quality_here": ("on_arm", "quality_here"),
    "arm_examples": ("on_arm", "examples"),
    "metric": ("metric",),
    "deployed_bytes": ("deployed_bytes",),
    "latency_ms": ("latency", "milliseconds"),
    "long_latency_ms": ("long_latency", "milliseconds"),
    "device": ("latency", "device"),
    "backend": ("latency", "backend"),
    "calibrated": ("latency", "calibrated"),
    "tokens": ("latency", "tokens"),
    "long_tokens": ("long_latency", "tokens"),
    "instructions": ("latency", "instructions"),
    "proposed": ("proposed",),
    "seed": ("seed",),
    "bundle": ("bundle",),
}
READINGS = ("latency", "long_latency")
# What depends on the device that a trial is timed on.
OF_DEVICE = frozenset(
    {"latency_ms", "long_latency_ms", "peak_heap_bytes", "instructions", "device", "backend", "calibrated"}
)
COSTS = ("deployed_bytes", "latency_ms", "long_latency_ms", "peak_heap_bytes", "instructions", "seconds")
_LAYER = re.compile(r"layer(\d+)\.(\w+)")


def direction_of(name: str) -> Direction | None:
    """Whether more of a measure is better, or less; None for what is neither."""
    from objectives.quality import METRICS  # takes scikit-learn along

    if name in ("quality", "quality_on_arm", "quality_here") or name.rpartition(".")[2] in (*METRICS, "retention"):
        return "maximize"  # of a task called seconds, too
    if name in COSTS or name.startswith("seconds.") or name in ("final_loss", "quantization_loss"):
        return "minimize"
    return None


def measured(name: str) -> Callable[[Content], Any] | None:
    """Reads a measure that every record has a place for; None for other names."""
    if name == "peak_heap_bytes":
        return _peak_heap
    if name == "seconds":
        return lambda content: sum(content["seconds"].values()) if content["seconds"] else None
    path = _PATHS.get(name)
    return None if path is None else lambda content: _at(content, path)


def value(content: Content, name: str) -> Any:
    """A further measure or a parameter of a trial; None where it has none of that name.

    Parameters have the names of the study file's dimensions: `depth`, `layer0.ffn_bits`, `recipe.temperature`. Further
    measures are those of `TrialRecord.metrics`, the metric's own name, `seconds.STEP`, and of several tasks
    `TASK.METRIC`, `TASK.retention` and `TASK.teacher_quality`.
    """
    config = content["config"]
    first, dot, rest = name.partition(".")
    if not dot:
        if name in content["metrics"]:
            return content["metrics"][name]
        if name == content["metric"]:
            return content["quality"]
        if name == "depth" and "layers" in config:
            return len(config["layers"])
        return _scalar(config.get(name))
    # Tasks first: one may be called recipe, seconds or layer0, and what is measured of it has no parameter's name.
    task = content.get("tasks", {}).get(first, {})
    if rest and rest == task.get("metric"):
        return task["quality"]
    if rest in task:
        return _scalar(task[rest])
    if first in ("recipe", "seconds"):
        return _scalar(content[first].get(rest))
    if found := _LAYER.fullmatch(name):
        layers = config.get("layers", ())
        number = int(found[1])
        return _scalar(layers[number].get(found[2])) if number < len(layers) else None
    return None


def parameters(content: Content) -> dict[str, Any]:
    """All parameters by name, those that the study has fixed included, as the trial's family names them.

    Raises:
        space.errors.InputError, pydantic.ValidationError: another version of Shoebox wrote them.
    """
    from space.config import Recipe
    from space.families import get_family, parse_config

    # Built, since older versions did not write what there was no choice of then.
    config, recipe = parse_config(content["config"]), Recipe.model_validate(content["recipe"])
    shared = {name: found for name, found in config if _scalar(found) is not None}
    own = get_family(config.family).parameters(config)
    return {**shared, **own, **{f"recipe.{name}": found for name, found in recipe}}


def names(content: Content) -> Iterator[str]:
    """What can be asked of a trial by name."""
    for name in (*_PATHS, "peak_heap_bytes", "seconds"):
        reader = measured(name)
        if reader is not None and reader(content) is not None:
            yield name
    yield from content["metrics"]
    yield content["metric"]
    for name in content["seconds"]:
        yield f"seconds.{name}"
    for task, found in content.get("tasks", {}).items():
        for name in (found["metric"], "retention", "teacher_quality"):
            yield f"{task}.{name}"
    yield from parameters(content)


def _at(content: Content, path: tuple[str, ...]) -> Any:
    found: Any = content
    for key in path:
        found = found.get(key)
        if found is None:
            return None
    return found


def _peak_heap(content: Content) -> Any:
    found = [_at(content, (reading, "peak_heap_bytes")) for reading in READINGS]
    return max((heap for heap in found if heap is not None), default=None)


def _scalar(found: Any) -> Any:
    return found if isinstance(found, (int, float, str)) else None
