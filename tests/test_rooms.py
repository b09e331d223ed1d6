"""The rooms import each other in one direction only, and stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from space.families import FAMILIES

ROOT = Path(__file__).parents[1]
ROOMS = ["space", "objectives", "runners", "search"]
LONGEST_FILE = 350
# What is about one family of students and no other; everything else must work for a family that is added.
OF_ONE_FAMILY = {
    "runners/supernet": "transformer",
    "runners/augmentation/student.py": "transformer",
    "search/bench/synthetic.py": "transformer",
    "runners/differentiable": "conv",
    "search/propose.py": "conv",
}
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


def imported_modules(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{name.name}" for name in node.names)
    return found


def imported_packages(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported_modules(file)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_one_way(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0]
    above = set(ROOMS[ROOMS.index(room) + 1 :]) | {"tests"}
    assert not imported_packages(file) & above


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_stay_small(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


def test_a_family_is_imported_by_its_folder_and_the_registry() -> None:
    """So that to add one takes its folder, its line in `space/families/__init__.py`, and tests."""
    folder = ROOT / "space" / "families"
    families = {path.name for path in folder.iterdir() if (path / "__init__.py").is_file()}
    assert families == set(FAMILIES)
    used = set()
    for file in FILES:
        name = str(file.relative_to(ROOT))
        if file == folder / "__init__.py":
            continue
        own = {file.relative_to(folder).parts[0]} if file.is_relative_to(folder) else set[str]()
        parts = {part for part in OF_ONE_FAMILY if name == part or name.startswith(f"{part}/")}
        own |= {OF_ONE_FAMILY[part] for part in parts}
        known = {found.split(".")[2] for found in imported_modules(file) if found.startswith("space.families.")}
        assert known & families <= own, name
        used |= {part for part in parts if OF_ONE_FAMILY[part] in known}
    assert used == set(OF_ONE_FAMILY)


def test_studies_hold_no_code() -> None:
    files = [path for path in (ROOT / "studies").rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    assert {file.suffix for file in files} == {".yaml"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_text_is_written_and_read_in_one_encoding(file: Path) -> None:
    """Without one it depends on the locale, and what one machine writes another cannot read."""
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    texts = [call for call in calls if getattr(call.func, "attr", "") in ("read_text", "write_text")]
    without = [call.lineno for call in texts if all(keyword.arg != "encoding" for keyword in call.keywords)]
    assert without == []
