"""Read the two splits of a task as tables, from the hub, from files, or from the grammar."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runners.column_names import refuse_doubled
from runners.grammar import domain_of, sentiment
from runners.plain_quotes import swallowed_rows, swallows
from runners.task.spec import FilesData, FolderData, GrammarData, HubData
from space.errors import InputError, OutputError
from space.paths import cache, expanded

logger = logging.getLogger("shoebox.runners.task")

FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
_HUB_TIMEOUT = 5.0  # seconds until the hub counts as out of reach
_OWN_DATA = "give a folder with train and validation files: --data DIR"


@dataclass(frozen=True)
class Table:
    """One split as read.

    Attributes:
        where: file or split, for messages.
        columns: the columns.
        class_names: class names that the data set itself declares, by column.
        numbers: int64 [rows], of the rows in the file, counted from 0; None where all are there.
    """

    where: str
    columns: pa.Table
    class_names: dict[str, tuple[str, ...]]
    numbers: npt.NDArray[np.int64] | None = None


def read_splits(data: HubData | FolderData | FilesData | GrammarData) -> tuple[Table, Table]:
    """The train and validation tables of a data source.

    Raises:
        InputError: a folder or file that is missing or cannot be read, a hub that is out of reach.
    """
    match data:
        case GrammarData():
            train, validation = sentiment(data.train, data.validation, data.seed)
            return _made(train, "train"), _made(validation, "validation")
        case FolderData():
            folder = expanded(data.path)
            return read_files(_split_files(folder, "train")), read_files(_split_files(folder, "validation"))
        case FilesData():
            return read_files([expanded(data.train)]), read_files([expanded(data.validation)])
        case HubData():
            return _read_hub(data)


def _made(rows: list[tuple[str, int]], split: str) -> Table:
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    columns = pa.table({"sentence": texts, "label": labels, "domain": [domain_of(text) for text in texts]})
    return Table(f"the grammar's {split} split", columns, {"label": ("negative", "positive")})


def _split_files(folder: Path, split: str) -> list[Path]:
    if not folder.exists():
        raise InputError(f"Data folder {folder} does not exist.")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder.", "Give the folder that holds train.* and validation.*.")
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in FORMATS and (path.stem == split or path.stem.startswith(f"{split}-"))
    )
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        endings = ", ".join(FORMATS)
        raise InputError(f"Data folder {folder} has no {split} file ({split} with {endings}); it holds {there}.")
    if len({path.suffix.lower() for path in found}) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"Data folder {folder} has more than one {split} file: {names}.", "Keep one format.")
    return found


def read_files(paths: list[Path]) -> Table:
    """The rows of files of one format, one after the other.

    Raises:
        InputError: a file that is missing or cannot be read, or one of tabs whose quotes look like plain characters.
        OutputError: no space left for it in the cache.
    """
    where = str(paths[0]) if len(paths) == 1 else str(paths[0].parent / f"{paths[0].stem}...{paths[0].suffix}")
    for path in paths:
        _check_file(path)
    # By content: datasets goes by name and time, and a file that was unpacked or copied may have those of another one.
    try:
        contents = [digest_of(path) for path in paths]
    except OSError as error:
        raise InputError(f"Could not read {where}: {error.strerror}.") from error
    folder = cache() / "data" / hashlib.sha256("".join(contents).encode()).hexdigest()[:24]
    known = any(folder.rglob("*.arrow"))
    try:
        try:
            table = _table(_loaded(paths, folder), where)
        except Exception:
            if not known:
                raise
            logger.warning("What is cached of %s is damaged: reading it again", where)
            shutil.rmtree(folder, ignore_errors=True)
            table = _table(_loaded(paths, folder), where)
    except Exception as error:  # datasets raises its own, pandas' and Arrow's errors for bad content
        root = _root(error)
        if isinstance(root, OSError) and root.errno is not None:  # disk full, no permission: not the file's fault
            reason = f"the cache folder {folder.parent}: {root.strerror}"
            raise OutputError(f"Could not read {where} by way of {reason}.") from error
        kind = FORMATS[paths[0].suffix.lower()].upper()
        raise InputError(f"{where} could not be read as {kind}: {_first_line(root)}.") from error
    if _separator(paths[0]) == "\t":
        _refuse_swallowed(table)
    return table


def _refuse_swallowed(table: Table) -> None:
    count = table.columns.num_columns
    for place, column in enumerate(table.columns.column_names):
        values = table.columns.column(column)
        if not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
            continue
        with_tabs = np.flatnonzero(pc.match_substring(values, "\t").fill_null(False).to_numpy())
        if (
            row := next((row for row in with_tabs if swallows(values[int(row)].as_py(), place, count)), None)
        ) is not None:
            raise swallowed_rows(f"Row {row + 1} of {table.where}, column {column!r}")


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    state = path.stat()
    return _digest(path, state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=1024)
def _digest(path: Path, *state: int) -> str:
    """That of a file in this state; nobody sets the time of the last change (`st_ctime_ns`) to another one."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _loaded(paths: list[Path], folder: Path) -> Any:
    """Files as `datasets` reads them, by way of Arrow files in a folder."""
    import datasets

    suffix = paths[0].suffix.lower()
    files: Any = [str(path.resolve()) for path in paths]
    # Not load_dataset: it reports each use of local files to a server and waits for it.
    with _quiet():
        if FORMATS[suffix] == "parquet":
            return datasets.Dataset.from_parquet(files, cache_dir=str(folder))
        if FORMATS[suffix] == "json":
            return datasets.Dataset.from_json(files, cache_dir=str(folder))
        # Only an empty cell is missing: the texts "NA" and "null" are texts.
        missing = {"keep_default_na": False, "na_values": ["", "nan", "NaN"]}
        return datasets.Dataset.from_csv(files, cache_dir=str(folder), sep=_separator(paths[0]), **missing)


def _check_file(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"{path} has an unknown ending.", f"Known: {', '.join(FORMATS)}.")
    if not path.is_file():
        raise InputError(f"Data file {path} does not exist.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(4)
            file.seek(max(0, size - 4))
            last = file.read(4)
    except OSError as error:
        raise InputError(f"Could not read {path}: {error.strerror}.") from error
    if size == 0:
        raise InputError(f"{path} is an empty file.")
    if suffix == ".parquet" and (first != b"PAR1" or last != b"PAR1"):
        cut = "it is cut off" if first == b"PAR1" else "it does not start as one"
        raise InputError(f"{path} is not a Parquet file: {cut}.", "Give CSV or JSON files their own ending.")
    if suffix == ".parquet" and _parquet_rows(path) == 0:  # `datasets` stumbles over such a file
        raise InputError(f"{path} has no rows.")
    if FORMATS[suffix] == "csv":
        _check_header(path)


def _check_header(path: Path) -> None:
    """pandas would give the second column of a name another one, and `datasets` stumbles over a header alone."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = (row for row in csv.reader(file, delimiter=_separator(path)) if row)
        # What is no text is for pandas to tell, and a cell of more than 131,072 characters for it to take.
        with contextlib.suppress(csv.Error, UnicodeDecodeError):
            refuse_doubled([name for name in next(rows, []) if name], f"{path}, line 1")
            if next(rows, None) is None:
                raise InputError(f"{path} has no rows.")


def _separator(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _parquet_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a Parquet file: its description is damaged.") from error


def _read_hub(data: HubData) -> tuple[Table, Table]:
    hub = _hub_reachable(data.hub)
    return read_hub(data.hub, data.config, data.train, hub), read_hub(data.hub, data.config, data.validation, hub)


def read_hub(
    repository: str, config: str | None, split: str, hub: tuple[bool, str] | None = None, otherwise: str = _OWN_DATA
) -> Table:
    """A split of a data set of the hub, from its local cache where the hub is out of reach.

    Args:
        hub: whether the hub can be reached, and why not, if that is known.
        otherwise: what to do where the hub cannot be used, for messages: the middle of a sentence.

    Raises:
        InputError: the hub is out of reach and the cache lacks the data set, or it cannot be loaded.
    """
    import datasets

    name = repository if config is None else f"{repository} ({config})"
    where = f"{name}, split {split}"
    reachable, reason = hub or _hub_reachable(repository)
    try:
        with _quiet(), contextlib.nullcontext() if reachable else _offline():
            loaded = datasets.load_dataset(repository, config, split=split)
    except Exception as error:
        if not reachable:
            raise InputError(
                f"The Hugging Face hub is out of reach ({reason}) and {name} is not in its local cache.",
                f"{otherwise[0].upper()}{otherwise[1:]}.",
            ) from error
        raise InputError(
            f"Could not load {where} from the Hugging Face hub: {_first_line(_root(error))}.",
            f"Check the id, or {otherwise}.",
        ) from error
    return _table(loaded, where)


def _hub_reachable(repository: str) -> tuple[bool, str]:
    """Ask the hub once, briefly: `load_dataset` itself would try for 20 seconds and more."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(repository, timeout=_HUB_TIMEOUT)
    except (HfHubHTTPError, ValueError):
        return True, ""  # it answers, or the id is malformed: load_dataset says what is wrong
    except Exception as error:
        return False, str(error).splitlines()[0] if str(error) else type(error).__name__
    return True, ""


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let `datasets` use its local cache without asking the hub again."""
    import datasets.config

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and lines of `datasets`: Shoebox has a display and messages of its own."""
    import datasets
    from datasets.utils import logging

    level, shown = logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()


def _table(loaded: Any, where: str) -> Table:
    # Of a list of class labels, the names are those of its items.
    features = {column: getattr(feature, "feature", feature) for column, feature in loaded.features.items()}
    names = {
        column: tuple(feature.names)
        for column, feature in features.items()
        if hasattr(feature, "names") and hasattr(feature, "int2str")
    }
    return Table(where, loaded.with_format("arrow")[:], names)


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
