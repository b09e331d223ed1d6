"""Cache entries: made once, made again when damaged, and what a full or closed disk is told as."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runners import cache_entry
from runners.cache_entry import make_once, new_array, save_array
from space.errors import OutputError

_log = logging.getLogger("shoebox.test")


def _fill(part: Path) -> None:
    (part / "model").mkdir()
    (part / "model" / "weights").write_bytes(bytes(1000))
    save_array(part / "values.npy", np.arange(10))


def _made(folder: Path, fill: Callable[[Path], None] = _fill, open_entry: Callable[[], Path] | None = None) -> int:
    """How often the entry was filled; it is read later, as memory maps are."""
    filled: list[Path] = []

    def counted(part: Path) -> None:
        filled.append(part)
        fill(part)

    make_once(folder, open_entry or (lambda: folder), counted, "entry", _log)
    return len(filled)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["values.npy", "model/weights", "sizes.json"])
@pytest.mark.parametrize("damage", [_cut, lambda path: path.write_bytes(b"")], ids=["cut", "emptied"])
def test_an_entry_with_a_damaged_file_is_made_again(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "entries" / "abc"
    assert (_made(folder), _made(folder)) == (1, 0)
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    damage(folder / name)
    assert (_made(folder), _made(folder)) == (1, 0)
    assert "The cached entry abc is damaged" in caplog.text
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == whole


def test_an_entry_without_one_of_its_files_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "abc"
    _made(folder)
    (folder / "model" / "weights").unlink()
    assert (_made(folder), _made(folder)) == (1, 0)


def test_files_that_are_added_later_are_no_damage(tmp_path: Path) -> None:
    folder = tmp_path / "abc"
    _made(folder)
    (folder / "later").write_text("more", encoding="utf-8")
    assert _made(folder) == 0


def test_entries_of_older_versions_are_opened_as_before(tmp_path: Path) -> None:
    """They kept no sizes."""
    folder = tmp_path / "abc"
    _made(folder)
    (folder / "sizes.json").unlink()
    assert _made(folder) == 0
    (folder / "values.npy").write_bytes(b"")  # of which numpy says that the file has ended

    def read() -> Path:
        np.load(folder / "values.npy", allow_pickle=False)
        return folder

    assert (_made(folder, open_entry=read), _made(folder, open_entry=read)) == (1, 0)


@pytest.mark.parametrize("name", ["abc", "abc.words"])
def test_what_killed_processes_left_is_removed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name

    def killed(part: Path) -> None:
        (tmp_path / "left").mkdir()
        os.rename(part, tmp_path / "left" / part.name)  # the process that made it would have removed it
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _made(folder, killed)
    (left,) = (tmp_path / "left").iterdir()
    os.rename(left, tmp_path / left.name.replace(str(os.getpid()), "1"))
    (tmp_path / "left").rmdir()
    _made(folder)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [name]


@pytest.mark.timeout(60)
def test_an_entry_is_made_while_one_of_the_same_key_is(tmp_path: Path) -> None:
    def nested(part: Path) -> None:
        assert _made(tmp_path / "abc.words") == 1
        _fill(part)

    assert _made(tmp_path / "abc", nested) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["abc", "abc.words"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_no_fault_of_a_trial(tmp_path: Path, number: int) -> None:
    def full(part: Path) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match="No space left for the entry in"):
        _made(tmp_path / "abc", full)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_nor_is_a_disk_that_refuses(tmp_path: Path, number: int) -> None:
    def refused(part: Path) -> None:
        raise OSError(number, os.strerror(number), str(part / "values.npy"))

    with pytest.raises(OutputError, match=f"Could not write to the cache folder {tmp_path}: {os.strerror(number)}"):
        _made(tmp_path / "abc", refused)


def test_nor_is_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with pytest.raises(OutputError, match=r"Could not write to the cache folder .*/cache/entries: Not a directory\."):
        _made(tmp_path / "cache" / "entries" / "abc")


def test_a_file_of_the_users_that_may_not_be_read_is_another_matter(tmp_path: Path) -> None:
    def refused(part: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/texts.csv")

    with pytest.raises(PermissionError):
        _made(tmp_path / "abc", refused)


def test_an_entry_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = set(), os.fsync

    def spied(file: int) -> None:
        assert not (tmp_path / "abc").exists()
        synced.add(os.fstat(file).st_ino)
        sync(file)

    monkeypatch.setattr(cache_entry.os, "fsync", spied)
    _made(tmp_path / "abc")
    assert {path.stat().st_ino for path in (tmp_path / "abc").rglob("*") if path.is_file()} <= synced


@pytest.mark.parametrize(
    "array", [np.arange(12.0).reshape(3, 4), np.zeros((0, 4), np.float16), np.arange(6).reshape(2, 3).T, np.arange(3)]
)
def test_arrays_are_saved_and_read(tmp_path: Path, array: np.ndarray) -> None:
    save_array(tmp_path / "array.npy", array)
    found = np.load(tmp_path / "array.npy", allow_pickle=False)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    if array.flags.c_contiguous:
        np.save(tmp_path / "numpy.npy", array, allow_pickle=False)
        assert (tmp_path / "numpy.npy").read_bytes() == (tmp_path / "array.npy").read_bytes()


def test_new_arrays_have_their_room_on_the_disk(tmp_path: Path) -> None:
    """A map over a hole in a file ends the process by a signal when the disk is full."""
    array = new_array(tmp_path / "array.npy", (1000, 300), np.float32)
    assert not array.any()
    assert (tmp_path / "array.npy").stat().st_blocks * 512 >= array.nbytes


def test_whoever_writes_entries_tells_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """In a process whose files may not grow, as on a full disk."""
    program = """
import errno, logging, resource, signal, sys
from pathlib import Path
import numpy as np
import torch
from transformers import BertConfig, BertModel
from runners.cache_entry import new_array, save_array
from runners.teacher.model import Teacher, save_teacher
from runners.teacher.statistics import LayerStatistics, write_statistics
from runners.transfer.store import write_texts
folder = Path(sys.argv[1])
config = BertConfig(
    vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
)
teacher = Teacher(BertModel(config), 2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for write in (
    lambda: new_array(folder / "new.npy", (10000,), np.float32),
    lambda: save_array(folder / "saved.npy", np.zeros(10000)),
    lambda: save_teacher(teacher, folder),
    lambda: write_statistics(folder, LayerStatistics(torch.zeros(2, 32), torch.zeros(2, 32, 32), None)),
    lambda: write_texts(folder, ["some words"] * 1000, None),
):
    try:
        write()
    except OSError as error:
        print(errno.errorcode.get(error.errno, error))
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == "EFBIG\n" * 5, done.stderr
