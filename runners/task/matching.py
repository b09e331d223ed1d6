"""Rows of one split that also stand in another."""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from runners.task.load import Examples, Task, fingerprint, load_task
from runners.task.spec import TaskSpec
from space.errors import InputError

_log = logging.getLogger("shoebox.runners.task")
MATCH_FORMAT = 1  # raise it when `match_key` changes: cache entries of text that was sifted by it must not be used then
_IGNORED = re.compile(r"[^a-z0-9]+")  # of ASCII in lower case
_told: set[tuple[str, str]] = set()  # what was logged: a search reads its tasks more than once


def match_key(text: str) -> str:
    """What two texts have in common if they differ in case, spacing, punctuation and Unicode's way to write it only.

    Data sets write the same sentence in different ways: `It's fun.` and `it 's fun .`, or an accent within its letter
    and behind it. Marks are kept, since in many scripts they are vowels.
    """
    if text.isascii():  # nearly all English text, and twice as fast
        return _IGNORED.sub("", text.lower()) or "".join(text.split())
    # What is ignored goes first: a lone ´ would become a mark and join the letter before it.
    letters = _folded(text.translate(_KEPT)).translate(_KEPT)
    # To fold a Turkish capital I with its dot leaves the dot behind.
    return letters.replace("i\u0307", "i") or "".join(_folded(text).split())


def _folded(text: str) -> str:
    """Without differences in case and compatibility; to fold case can undo what was normalised."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


class _Kept(dict[int, int | None]):
    """For `str.translate`: letters, digits and marks stay, whatever else is looked up goes."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if _is_kept(chr(code)) else None
        return self[code]


def _is_kept(character: str) -> bool:
    category = unicodedata.category(character)
    if category not in ("Mn", "Mc"):
        return category[0] in "LN"
    # Vowel points of Hebrew and Arabic may be left out in writing; variation selectors are never seen.
    point = 10 <= unicodedata.combining(character) <= 36
    return not point and "VARIATION SELECTOR" not in unicodedata.name(character, "")


_KEPT = _Kept()


def without_rows_of(task: Task, judged: Examples, name: str) -> Task:
    """A task whose train split has no row of the split that another task is judged by; itself if it has none.

    Data sets share texts: 48 of the pairs that STS-B trains on stand in the validation split of MRPC. What such a pair
    is labelled as says much about its label there. Pairs are the same in either order. Domains of which no row is left
    are domains of the task no longer.

    Args:
        judged: that split.
        name: of the task that is judged, for messages.

    Raises:
        InputError: every row stands there, or every row of the domain that students are for.
    """
    return _without(task, _row_keys(task.train), {name: set(_row_keys(judged))})


def load_tasks(specs: Mapping[str, TaskSpec]) -> dict[str, Task]:
    """Tasks that one student learns, by name: none trains on what another is judged by.

    Raises:
        InputError: as `load_task` and `without_rows_of`.
    """
    found = {name: load_task(spec) for name, spec in specs.items()}
    if len(found) == 1:
        return found
    judged = {name: set(_row_keys(task.taught_validation)) for name, task in found.items()}
    for name, task in found.items():
        others = {f"task {other}": keys for other, keys in judged.items() if other != name}
        found[name] = _without(task, _row_keys(task.train), others)
    return found


def _without(task: Task, keys: list[bytes], judged: Mapping[str, set[bytes]]) -> Task:
    """A task without the rows that others are judged by; `keys` are of its rows, `judged` by what is judged."""
    known, shared, sharing = set(keys), set[bytes](), list[str]()
    for name, split in judged.items():
        if known.isdisjoint(split):
            continue
        count = sum(key in split and key not in shared for key in keys)
        shared |= known & split
        sharing.append(name)
        if known == shared:
            raise InputError(f"Every text of a train split stands in the validation split of {name} too.")
        if count and (task.fingerprint, name) not in _told:
            _told.add((task.fingerprint, name))
            _log.info("Left out %d texts to train on that stand in the validation split of %s", count, name)
    if not shared:
        return task
    train = task.train.take(np.flatnonzero([key not in shared for key in keys]))
    return _with_train(task, train, " or ".join(sharing))


def _with_train(task: Task, train: Examples, name: str) -> Task:
    """A task with fewer rows to train on, and with the domains that these have."""
    names, target = task.domains, task.target
    if train.domains is not None:
        assert names is not None
        present, places = np.unique(train.domains, return_inverse=True)
        if target is not None:
            if target.domain not in present:
                raise InputError(
                    f"Every text of domain {names[target.domain]!r} in a train split stands in the validation split of "
                    f"{name} too."
                )
            target = replace(target, domain=int(np.searchsorted(present, target.domain)))
        names = tuple(names[place] for place in present)
        train = replace(train, domains=places.astype(np.int64))
    made = fingerprint(train, task.taught_validation, task.outputs)
    return replace(task, train=train, domains=names, target=target, fingerprint=made)


def _row_keys(examples: Examples) -> list[bytes]:
    """What equal rows have in common, of 16 bytes each: the texts of large tasks are not kept twice."""
    texts = map(match_key, examples.texts)
    if examples.pairs is None:
        return [_digest(text) for text in texts]
    pairs = zip(texts, map(match_key, examples.pairs), strict=True)
    return [_digest("\n".join(sorted(set(pair)))) for pair in pairs]  # a key has no line break


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
