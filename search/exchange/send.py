"""Write a study into an archive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

from search.bundles import whole_bundle
from search.exchange.archive import write_archive
from search.exchange.content import bundle_name, contents, study_text, trials_text
from search.exchange.table import parquet
from search.storage import find_study, open_storage
from search.study import Study, load_study
from space.errors import InputError
from space.paths import expanded

Bundles = Literal["all", "front", "none"]
FILE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"  # name of a file in a bundle
MEMBERS = rf"study\.json|trials\.jsonl|trials\.parquet|trials/\d{{5,9}}/{FILE}"


@dataclass(frozen=True)
class Exported:
    """What went into an archive.

    Attributes:
        path, size: of the file, in bytes.
        trials: of all states.
        bundles: numbers of the trials whose bundles are in it.
        gone: numbers of those whose bundles should be, but are gone or damaged.
    """

    path: Path
    size: int
    trials: int
    bundles: tuple[int, ...]
    gone: tuple[int, ...]


def export_study(name: str, output: Path, bundles: Bundles = "front", storage: str | None = None) -> Exported:
    """Write a study into an archive: trials, attributes, study file, versions and bundles; no data, no teacher.

    The same study makes the same bytes. While a search goes on, what has finished so far is written, without
    bundles that it removes meanwhile.

    Args:
        name: of the study.
        output: file to make.
        bundles: those of the front, of all finished trials, or none.
        storage: URL; default `home()/studies.db`.

    Raises:
        InputError: no such study; the file exists; bundles are at a URL that cannot be read.
        OutputError: it cannot be written; nothing is left behind.
    """
    if bundles not in get_args(Bundles):
        raise InputError(f"There is no choice of bundles {bundles!r}.", f"Choose from {', '.join(get_args(Bundles))}.")
    output = expanded(output)
    found = load_study(name, storage)
    study = find_study(open_storage(found.url), name)
    assert study is not None
    content, trials = contents(study)
    places = _places(found, bundles)
    there = {number: folder for number, place in places.items() if (folder := whole_bundle(place)) is not None}
    written: list[int] = []

    def members() -> Iterator[tuple[str, bytes]]:
        yield "study.json", study_text(content)
        yield "trials.jsonl", trials_text(trials)
        yield "trials.parquet", parquet(trials, found.objectives)
        for number, folder in sorted(there.items()):
            if files := _files(folder):
                written.append(number)
                yield from ((f"{bundle_name(number)}/{name}", content) for name, content in files.items())

    made_with = {package: metadata.version(package) for package in ("shoebox", "optuna")}
    write_archive(output, name, made_with, members())
    gone = tuple(sorted(set(places) - set(written)))
    return Exported(output, output.stat().st_size, len(trials), tuple(written), gone)


def _files(folder: Path) -> dict[str, bytes]:
    """The files of a bundle, whole; none if it was removed by now: an archive takes no half of a bundle."""
    try:
        found = {
            file.name: file.read_bytes()
            for file in sorted(folder.iterdir())
            if file.is_file() and not file.is_symlink() and re.fullmatch(FILE, file.name)
        }
    except FileNotFoundError:
        return {}
    return found if folder.is_dir() else {}


def _places(study: Study, bundles: Bundles) -> dict[int, str]:
    """Folders or URLs of bundles by the number of their trial."""
    if bundles == "none":
        return {}
    if bundles == "front":
        return {record.trial: record.bundle for record in study.pareto()}
    return {trial.number: trial.record.bundle for trial in study.trials() if trial.record is not None}
