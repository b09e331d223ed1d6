"""What the hosts of a Ray cluster offer and see. Everything a search needs there is checked before it starts."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from math import floor
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from space.errors import InputError

CHECK_SECONDS = 120.0  # for every host to answer; the first task of a host imports the packages


@dataclass(frozen=True)
class Node:
    """A host of the cluster, or what Ray takes for one.

    Attributes:
        id: Ray's name for it.
        address: its IP address.
        cpus, gpus: that it offers to trials; an `ray start --num-cpus` may say another number than the host has.
    """

    id: str
    address: str
    cpus: float
    gpus: float

    def fits(self, cpus: float, gpus: float) -> int:
        """How many trials that need so much run here at a time."""
        # A tenth of ten tenths is one, whatever floating point says.
        most = floor(self.cpus / cpus + 1e-9)
        return min(most, floor(self.gpus / gpus + 1e-9)) if gpus > 0 else most


def alive_nodes() -> list[Node]:
    """The hosts that the connected Ray knows to be alive."""
    return [
        Node(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            cpus=float(node["Resources"].get("CPU", 0)),
            gpus=float(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def trials_at_once(nodes: Sequence[Node], cpus: float, gpus: float) -> int:
    """How many trials the hosts carry at a time.

    Raises:
        InputError: not a single one.
    """
    count = sum(node.fits(cpus, gpus) for node in nodes)
    if count == 0:
        offer = "; ".join(f"{node.address} has {node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes)
        raise InputError(
            f"No host can run a trial that needs {cpus:g} CPUs and {gpus:g} GPUs: {offer or 'there is none'}.",
            "Lower search.cpus_per_trial or search.gpus_per_trial, or add hosts.",
        )
    return count


@dataclass(frozen=True)
class Needs:
    """What each host has to see.

    Attributes:
        marks: content of a file, by its path, in each folder that has to be shared.
        paths: files and folders that the study names.
        storage: URL of the study's storage.
        version: of Shoebox.
    """

    marks: Mapping[str, str]
    paths: tuple[str, ...]
    storage: str
    version: str


def look_around(needs: Needs) -> list[str]:
    """What this host lacks, in words; runs on each host."""
    from search.storage import open_storage

    found = []
    for mark, content in needs.marks.items():
        file = Path(mark)
        try:
            if file.read_text(encoding="utf-8") != content:
                found.append(f"{file.parent} is another folder here")
            with file.with_name(f"{file.name}.{uuid.uuid4().hex}").open("x", encoding="utf-8") as answer:
                os.unlink(answer.name)
        except FileNotFoundError:
            found.append(f"{file.parent} is not the shared folder")
        except OSError as error:
            found.append(f"{file.parent} cannot be used ({error.strerror})")
    found += [f"{path} is not there" for path in needs.paths if not Path(path).exists()]
    if installed_version() != needs.version:
        found.append(f"Shoebox is {installed_version()}, not {needs.version}")
    if not found:  # a host that is wrong in another way need not wait for the server
        try:
            open_storage(needs.storage, keep_connections=False).engine.dispose()
        except InputError as error:
            found.append(error.message.rstrip("."))
    return found


def check_nodes(nodes: Sequence[Node], shared: Sequence[Path], paths: Sequence[str], storage: str) -> None:
    """Ask each host whether it sees the shared folders, the study's files and the storage.

    Args:
        nodes: that trials may run on.
        shared: folders that all hosts have to share with this one.
        paths: files and folders that the study names.
        storage: URL of the study's storage.

    Raises:
        InputError: what hosts lack, with their addresses.
    """
    with _marks(shared) as marks:
        needs = Needs(marks, tuple(paths), storage, installed_version())
        look = ray.remote(num_cpus=0, max_retries=0)(look_around)
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            asked[look.options(scheduling_strategy=there).remote(needs)] = node
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=CHECK_SECONDS)
        lacks = {
            node.address: _answer(task) if task in done else ["it does not answer"] for task, node in asked.items()
        }
    wrong = [f"{address}: {', '.join(lacking)}" for address, lacking in lacks.items() if lacking]
    if wrong:
        raise InputError(
            f"Not every host of the cluster can run this study: {'; '.join(wrong)}.",
            "Let SHOEBOX_HOME and SHOEBOX_CACHE be folders that all hosts share, keep data there or at the same path "
            "everywhere, and install the same Shoebox with the same extras.",
        )


def _answer(task: Any) -> list[str]:
    try:
        return ray.get(task)
    except Exception as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, ImportError):
            return [f"Shoebox is not installed ({cause})"]
        reason = " ".join(str(cause).split())
        return [f"the check failed ({reason[-200:]})"]


@contextlib.contextmanager
def _marks(folders: Sequence[Path]) -> Iterator[dict[str, str]]:
    """A file of random content in each folder, for as long as hosts look for it."""
    marks = {folder / f".seen-by-{uuid.uuid4().hex}": uuid.uuid4().hex for folder in folders}
    try:
        for file, content in marks.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
        yield {str(file): content for file, content in marks.items()}
    finally:
        for file in marks:
            file.unlink(missing_ok=True)


def installed_version() -> str:
    """The version of Shoebox here."""
    try:
        return metadata.version("shoebox")
    except metadata.PackageNotFoundError:
        return "not installed"
