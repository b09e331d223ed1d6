"""The folder of a recording that is being made."""

from __future__ import annotations

import os
from pathlib import Path

from search.bench.recording import RecordedTrial, Recording, Setting

SETTING, TRIALS = "setting.json", "trials.jsonl"


def write_setting(folder: Path, setting: Setting) -> None:
    """Write what all trials of the folder share."""
    (folder / SETTING).write_text(setting.model_dump_json(), encoding="utf-8")


def append_trial(folder: Path, trial: RecordedTrial) -> None:
    """Add a trial, which is on disk afterwards."""
    with (folder / TRIALS).open("a", encoding="utf-8") as file:
        file.write(trial.model_dump_json() + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_folder(folder: Path) -> Recording:
    """What the folder holds so far; a last line that was cut off is forgotten."""
    setting = Setting.model_validate_json((folder / SETTING).read_text(encoding="utf-8"))
    path = folder / TRIALS
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return Recording(
        setting=setting, trials=tuple(RecordedTrial.model_validate_json(line) for line in whole.splitlines())
    )
