"""The file that a recording is shipped in: JSON, one list per column."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from search.bench.recording import RecordedTrial, Recording, Setting

STUDIES = ("sst2", "banking77")


def study_path(name: str) -> Path:
    """The study file that a shipped recording, one of `STUDIES`, was made with."""
    return Path(__file__).with_name(f"{name}.yaml")


def recording_path(name: str) -> Path:
    """The file of a shipped recording, one of `STUDIES`."""
    return Path(__file__).with_name(f"{name}.json")


def write_recording(recording: Recording, path: Path) -> None:
    """Write a recording; equal recordings give equal bytes."""
    rows = [trial.model_dump(mode="json") for trial in recording.trials]
    params = sorted({name for row in rows for name in row["params"]})
    content: dict[str, Any] = {"setting": recording.setting.model_dump(mode="json")}
    content["columns"] = {name: [row[name] for row in rows] for name in RecordedTrial.model_fields if name != "params"}
    content["params"] = {name: [row["params"].get(name) for row in rows] for name in params}
    lines = [f'"setting":{_compact(content["setting"])}']
    for section in ("columns", "params"):
        columns = ",\n".join(f"{json.dumps(name)}:{_compact(values)}" for name, values in content[section].items())
        lines.append(f'"{section}":{{\n{columns}\n}}')
    part = path.with_name(f"{path.name}.part")
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    part.replace(path)


def read_recording(path: Path) -> Recording:
    """A recording from its file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    columns, params = content["columns"], content["params"]
    trials = []
    for index in range(len(columns["number"])):
        given = {name: values[index] for name, values in params.items() if values[index] is not None}
        trials.append(RecordedTrial(params=given, **{name: values[index] for name, values in columns.items()}))
    return Recording(setting=Setting.model_validate(content["setting"]), trials=tuple(trials))


@cache
def shipped_recording(name: str) -> Recording:
    """A recording that comes with Shoebox, one of `STUDIES`."""
    return read_recording(recording_path(name))


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
