"""Remarks under the tables of the terminal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.bundles import record_of, write_bundle

from objectives.latency import LatencyReading
from runners.bundle import read_config
from search.cli.tables import _remarks
from search.study_file import StudyFile, load_study_file


@pytest.mark.parametrize(
    ("tokens", "told"),
    [("auto", "of median length and of the 95th percentile"), ([8, 16], "of the lengths that `device.tokens` gives")],
)
def test_lengths_that_a_study_names_are_not_called_those_of_its_text(tmp_path: Path, tokens: Any, told: str) -> None:
    data = load_study_file("quickstart").model_dump(mode="json")
    data["device"]["tokens"] = tokens
    folder = write_bundle(tmp_path / "b", "texts")
    reading = LatencyReading(milliseconds=2, backend="estimated", device="cortex-a53", calibrated=True, tokens=16)
    record = record_of(folder, "texts", read_config(folder)).model_copy(update={"long_latency": reading})
    selection: Any = SimpleNamespace(studies=[SimpleNamespace(file=StudyFile.model_validate(data))], untimed=0)
    assert f"Latency on texts {told}; word pieces in brackets." in _remarks(selection, [record])
