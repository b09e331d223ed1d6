"""Rows of one split that also stand in another."""

from __future__ import annotations

import itertools
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping
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
    is labelled as says much about its label there. Pairs are the same in either order.

    Args:
        judged: that split.
        name: of the task that is judged, for messages.

    Raises:
        InputError: every row stands there.
    """
    known = set(_row_keys(judged))
    kept = np.array([key not in known for key in _row_keys(task.train)], bool)
    if kept.all():
        return task
    if not kept.any():
        raise InputError(f"Every text of a train split stands in the validation split of {name} too.")
    if (task.fingerprint, name) not in _told:
        _told.add((task.fingerprint, name))
        _log.info("Left out %d texts to train on that stand in the validation split of %s", (~kept).sum(), name)
    train = task.train.take(np.flatnonzero(kept))
    return replace(task, train=train, fingerprint=fingerprint(train, task.taught_validation, task.outputs))


def load_tasks(specs: Mapping[str, TaskSpec]) -> dict[str, Task]:
    """Tasks that one student learns, by name: none trains on what another is judged by.

    Raises:
        InputError: as `load_task` and `without_rows_of`.
    """
    found = {name: load_task(spec) for name, spec in specs.items()}
    for name, other in itertools.permutations(found, 2):
        found[name] = without_rows_of(found[name], found[other].taught_validation, f"task {other}")
    return found


def _row_keys(examples: Examples) -> Iterable[frozenset[str]]:
    texts = map(match_key, examples.texts)
    if examples.pairs is None:
        return (frozenset((text,)) for text in texts)
    return (frozenset(pair) for pair in zip(texts, map(match_key, examples.pairs), strict=True))
