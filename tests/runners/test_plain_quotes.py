"""TSV files whose quotes are plain characters."""

from __future__ import annotations

from pathlib import Path

import pytest

from runners.task.sources import read_files
from space.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_that_a_quote_swallows_are_not_lost_in_silence(tmp_path: Path, end: str) -> None:
    lines = ["sentence\tlabel", "x\t1", '"hello, it began\t1', "y\t0", 'and ended"\t1', "z\t0", ""]
    (tmp_path / "train.tsv").write_text(end.join(lines), newline="")
    said = r"Row 2 of .*train\.tsv, column 'sentence': a cell begins with a quote and runs .* quoting=3\)\.to_json"
    for _ in range(2):  # from the file, and from what is cached of it
        with pytest.raises(InputError, match=said):
            read_files([tmp_path / "train.tsv"])


@pytest.mark.parametrize(
    "cell",
    ['"two\nlines"', '"a\tb"', '"def f():\n\treturn 0\n"', '"a ""great"" film"', 'a "great" film', '"Great" film'],
)
def test_cells_that_are_quoted_as_they_must_be_are_read(tmp_path: Path, cell: str) -> None:
    (tmp_path / "train.tsv").write_text(f"sentence\tlabel\n{cell}\t1\n\t0\n")
    assert read_files([tmp_path / "train.tsv"]).columns.num_rows == 2


def test_quoted_cells_of_other_files_may_hold_anything(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('sentence,label\n"a\tb\nc",1\n')
    assert read_files([tmp_path / "train.csv"]).columns["sentence"].to_pylist() == ["a\tb\nc"]
