"""Leave out what is blank, repeated, or part of the task itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass
class Counts:
    """How many rows of a source were read, and why some were left out.

    Attributes:
        read: rows of the source.
        pieces: texts after splitting into sentences.
        blank: white space only.
        validation: stand in the validation split.
        train: stand in the train split.
        repeated: stand in the source before, or were taken from an earlier source.
        taken: what is left, after `limit`.
    """

    read: int = 0
    pieces: int = 0
    blank: int = 0
    validation: int = 0
    train: int = 0
    repeated: int = 0
    taken: int = 0


class Sieve:
    """Tells which texts are new.

    Args:
        validation: keys of the validation split; a text with such a key is never let through.
        train: keys of the train split, whose texts students see anyway.
    """

    def __init__(self, validation: Iterable[object], train: Iterable[object]) -> None:
        self._validation, self._train = frozenset(validation), frozenset(train)
        self._taken: set[object] = set()

    def new(self, keys: Iterable[object], counts: Counts) -> npt.NDArray[np.int64]:
        """Places of the keys that are new, each once; the others are counted. A blank text has the key ""."""
        found: list[int] = []
        here: set[object] = set()
        for place, key in enumerate(keys):
            if key == "":
                counts.blank += 1
            elif key in self._validation:
                counts.validation += 1
            elif key in self._train:
                counts.train += 1
            elif key in here or key in self._taken:
                counts.repeated += 1
            else:
                here.add(key)
                found.append(place)
        return np.array(found, np.int64)

    def take(self, keys: Iterable[object]) -> None:
        """Remember keys as taken."""
        self._taken.update(keys)

    def admits(self, key: object) -> bool:
        """Whether a key is new; if so it is taken."""
        if key in self._validation or key in self._train or key in self._taken:
            return False
        self._taken.add(key)
        return True


def even_sample(count: int, limit: int | None, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most `limit` of `range(count)`: one at random from each of `limit` equal stretches, rising."""
    if limit is None or limit >= count:
        return np.arange(count)
    edges = np.arange(limit + 1) * count // limit
    return edges[:-1] + generator.integers(0, np.diff(edges))
