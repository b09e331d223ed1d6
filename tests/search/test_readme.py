"""The newcomer's page of the README, line by line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.study_file import load_study_file

ROOT = Path(__file__).resolve().parents[2]


def _lines() -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## From nothing to a shipped student")[1].split("\n## ")[0]
    [block] = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line for line in block.splitlines() if line.strip()]


def test_the_page_shows_the_whole_path() -> None:
    commands = " ".join(_lines())
    for command in ("search", "pareto", "export", "predict", "report", "--warm-start", "study export"):
        assert f"shoebox {command}" in commands or command in commands
    assert all(line.startswith("shoebox ") for line in _lines())


def _studies() -> list[dict[str, Any]]:
    """The YAML blocks, each in a study that has what it leaves out."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    task = {"data": {"path": "data/mine"}, "text": "sentence", "label": "label", "metric": "accuracy"}
    found = []
    for block in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL):
        sections = yaml.safe_load(block)
        base = {"name": "readme", "teacher": {}, **({} if "tasks" in sections else {"task": task})}
        if "task" in sections and "data" not in sections["task"]:
            sections["task"] = {**task, **sections["task"]}
        found.append({**base, **sections})
    return found


@pytest.mark.parametrize("study", _studies(), ids=lambda study: "-".join(sorted(study)))
def test_every_study_that_the_readme_shows_is_valid(tmp_path: Path, study: dict[str, Any]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    load_study_file(file)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_line_of_the_page_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SHOEBOX_HOME": str(tmp_path / "home")}
    shell = f'shoebox() {{ "{sys.executable}" -m search.cli "$@"; }}\n'
    printed = {}
    for line in _lines():
        done = subprocess.run(
            ["bash", "-c", shell + line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        printed[line.split("#")[0].strip()] = done.stdout
    assert "positive" in printed['shoebox predict student/ "the film is not bad"']
    assert {"student", "quickstart.html", "quickstart.zip"} <= {path.name for path in tmp_path.iterdir()}
