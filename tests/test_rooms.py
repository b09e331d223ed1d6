"""The rooms import each other in one direction only, and stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ["space", "objectives", "runners", "search"]
LONGEST_FILE = 350
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


def imported_packages(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return {name.partition(".")[0] for name in found}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_one_way(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0]
    above = set(ROOMS[ROOMS.index(room) + 1 :]) | {"tests"}
    assert not imported_packages(file) & above


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_stay_small(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


def test_studies_hold_no_code() -> None:
    files = [path for path in (ROOT / "studies").rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    assert {file.suffix for file in files} == {".yaml"}
