"""Cache entries: folders made once by one process and read by all."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import filelock
import numpy as np
import numpy.typing as npt

from space.errors import NO_SPACE, OutputError

_Opened = TypeVar("_Opened")
_ZEROS = bytes(2**20)
_SIZES = "sizes.json"  # bytes of each file of an entry, by its path there


def make_once(
    folder: Path,
    open_entry: Callable[[], _Opened],
    fill: Callable[[Path], None],
    what: str,
    logger: logging.Logger,
    keeps_sizes: bool = True,
) -> _Opened:
    """What a cache entry holds: opened, or made first.

    It is made in a folder of another name, which is renamed when it is complete and on the disk: whoever sees the
    entry sees all of it. Processes that ask for the same entry at the same time wait for the one that makes it. A
    damaged entry is made again: one that cannot be opened, or one of whose files has not the size that it was made
    with. Files that are added later are not compared.

    Args:
        folder: of the entry.
        open_entry: reads the entry; OSError, ValueError, TypeError and EOFError say that it is damaged.
        fill: writes the entry into the folder that it is given.
        what: what is made, for messages: "teacher's outputs".
        keeps_sizes: whether a list of the sizes of its files is added to the entry; not where `open_entry` knows
            them and the entry must hold nothing else.

    Raises:
        OutputError: the disk is full, or the cache folder cannot be written.
    """

    def open_whole() -> _Opened:
        if keeps_sizes:
            _check_sizes(folder)
        return open_entry()

    found = _cached(folder, open_whole, what, logger)
    if found is not None:
        return found
    with _only_one(folder, what, logger):
        found = _cached(folder, open_whole, what, logger)
        if found is None:
            _make(folder, fill, what, keeps_sizes)
            found = open_entry()
        return found


def new_array(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap[Any, Any]:
    """A memory-mapped `.npy` file of zeros to write to.

    The zeros are really written: a map over a hole in a file ends the process by a signal when the disk is full.

    Raises:
        OSError: the disk is full.
    """
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        left = int(np.prod(shape)) * np.dtype(dtype).itemsize
        while left > 0:
            left -= file.write(_ZEROS[:left])
    return np.lib.format.open_memmap(path, mode="r+")


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a `.npy` file.

    Raises:
        OSError: the disk is full; with the number of the system's error, which that of `np.save` lacks.
    """
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _cached(folder: Path, open_entry: Callable[[], _Opened], what: str, logger: logging.Logger) -> _Opened | None:
    if not folder.is_dir():
        return None
    try:
        return open_entry()
    except (OSError, ValueError, TypeError, EOFError) as error:
        logger.warning("The cached %s %s is damaged (%s): making it again", what, folder.name, error)
        return None


def _check_sizes(folder: Path) -> None:
    """OSError or ValueError if a file of an entry is gone or has another size than it was made with."""
    try:
        text = (folder / _SIZES).read_text(encoding="utf-8")
    except FileNotFoundError:  # of an older version, which kept no sizes
        return
    for name, size in json.loads(text).items():
        found = (folder / name).stat().st_size
        if found != size:
            raise ValueError(f"{name} has {found} bytes, not {size}")


@contextlib.contextmanager
def _only_one(folder: Path, what: str, logger: logging.Logger) -> Iterator[None]:
    lock = filelock.FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0.5)
        except filelock.Timeout:
            logger.info("Another process is making this %s: waiting for it", what)
            lock.acquire()
    except OSError as error:
        raise _refused(error, folder) from error
    try:
        yield
    finally:
        lock.release()


def _make(folder: Path, fill: Callable[[Path], None], what: str, keeps_sizes: bool) -> None:
    for left_over in folder.parent.glob(f"{folder.name}.part*"):  # of a killed process: we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    part = folder.with_name(f"{folder.name}.part{os.getpid()}")
    try:
        part.mkdir()
        fill(part)
        _seal(part, keeps_sizes)
        if folder.exists():  # damaged: `_cached` would have returned it otherwise
            shutil.rmtree(folder)
        os.replace(part, folder)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise OutputError(f"No space left for the {what} in {folder.parent}.") from error
        if _is_refusal(error, folder.parent):
            raise _refused(error, folder) from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _seal(part: Path, keeps_sizes: bool) -> None:
    files = sorted(path for path in part.rglob("*") if path.is_file())
    if keeps_sizes:
        sizes = {path.relative_to(part).as_posix(): path.stat().st_size for path in files}
        (part / _SIZES).write_text(json.dumps(sizes, indent=1), encoding="utf-8")
        files.append(part / _SIZES)
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # else the entry's name could outlive a power failure, and what it holds not


def _is_refusal(error: OSError, parent: Path) -> bool:
    """Whether the cache may not be written to; a user's file that may not be read is another matter."""
    if error.errno == errno.EROFS:
        return True
    named = error.errno in (errno.EACCES, errno.EPERM) and error.filename is not None
    return named and Path(str(error.filename)).is_relative_to(parent)


def _refused(error: OSError, folder: Path) -> OutputError:
    return OutputError(f"Could not write to the cache folder {folder.parent}: {error.strerror or error}.")
