"""Command-line options that change a study file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.validation import closest
from space.errors import InputError
from space.paths import expanded

# Option -> key path.
OVERRIDES: dict[str, tuple[str, ...]] = {
    "name": ("name",),
    "data": ("task", "data"),
    "text": ("task", "text"),
    "label": ("task", "label"),
    "where": ("task", "where"),
    "trials": ("search", "trials"),
    "hours": ("search", "hours"),
    "workers": ("search", "workers"),
    "seed": ("search", "seed"),
    "sampler": ("search", "sampler"),
    "bundles": ("search", "bundles"),
    "latency": ("device", "latency"),
    "device": ("device", "profile"),
}

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")  # 007 is a name
_OF_WORDS = {"text": ("task", "tokens"), "label": ("task", "tags")}


def apply_overrides(data: dict[str, Any], overrides: Mapping[str, Any], elsewhere: bool = False) -> dict[str, str]:
    """Write overrides that are not None into a raw or dumped study; answers which option set which key path.

    Args:
        data: to be changed.
        overrides: values by option.
        elsewhere: the study is for other machines: the folder of data is taken as it is named.

    Raises:
        InputError: an option does not exist or does not fit, or the folder of data is missing.
    """
    given = {}
    for option, value in overrides.items():
        if value is None:
            continue
        if option not in OVERRIDES:
            raise InputError(f"There is no override {option!r}.", closest(option, list(OVERRIDES)))
        if option == "data":
            folder = expanded(str(value))
            if not elsewhere and not folder.is_dir():
                raise InputError(f"--data: there is no folder {value}.", "It holds train.* and validation.*.")
            folder = folder.absolute() if elsewhere else folder.resolve()
            if isinstance(data.get("tasks"), dict):
                _data_of_tasks(data["tasks"], folder, elsewhere)
                continue
            value = {"path": str(folder)}
        if option in ("text", "label", "where") and data.get("tasks") is not None:
            raise InputError(f"--{option} is for a study of one task.", "Write it into the study file.")
        if option == "device" and str(value).endswith((".yaml", ".yml")):
            value = str(expanded(str(value)).absolute())
        if option == "text" and isinstance(value, str) and "," in value:
            value = [column.strip() for column in value.split(",")]
        if option == "where":
            value = _conditions(str(value))
        path = OVERRIDES[option]
        task = data.get("task")
        if option in _OF_WORDS and isinstance(task, dict) and task.get("kind") == "token-classification":
            path = _OF_WORDS[option]
        *parents, last = path
        section = data
        for parent in parents:
            if not isinstance(section.get(parent), dict):
                section[parent] = {}
            section = section[parent]
        section[last] = value
        given[".".join(path)] = f"--{option}"
    return given


def _data_of_tasks(tasks: dict[str, Any], folder: Path, elsewhere: bool) -> None:
    """Let each of several tasks read the folder of its name.

    Raises:
        InputError: one is missing.
    """
    for name, task in tasks.items():
        if not elsewhere and not (folder / str(name)).is_dir():
            raise InputError(
                f"--data: there is no folder {folder / str(name)}.",
                f"Of a study of several tasks, {folder} holds one folder for each: {', '.join(map(str, tasks))}.",
            )
        if isinstance(task, dict):
            task["data"] = {"path": str(folder / str(name))}


def _conditions(text: str) -> dict[str, Any]:
    """`lang=en,genre=2` as a mapping; whole numbers and truth values are such."""
    found = {}
    for condition in text.split(","):
        column, equals, value = (part.strip() for part in condition.partition("="))
        if not (column and equals and value):
            raise InputError(f"--where: {condition!r} is no condition.", "Write COLUMN=VALUE, as in lang=en.")
        truth = {"true": True, "false": False}
        found[column] = truth.get(value, int(value) if _WHOLE.fullmatch(value) else value)
    return found
