"""Texts in the word pieces of the vocabularies that were asked for last."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy.typing as npt

from runners.batches import Encoded

# Half a million sentences take about 100 MB in one vocabulary; texts of the usual task stay in all of a space.
_MOST_BYTES = 2**28


class RecentEncodings:
    """Keeps what was encoded, and forgets the vocabularies that nobody has asked for longest.

    All texts of a vocabulary stay or go together: a trial needs all of them. Those of the vocabulary that was asked for
    last stay in any case.

    Args:
        most_bytes: of all that is kept, that vocabulary aside if it takes more alone.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: dict[Hashable, dict[Hashable, Encoded]] = {}  # the latest last

    def of(self, vocabulary: Hashable, texts: Hashable, encode: Callable[[], Encoded]) -> Encoded:
        """The texts of that name in the word pieces of a vocabulary; encoded now if they are not kept."""
        found = self._kept[vocabulary] = self._kept.pop(vocabulary, {})
        if texts not in found:
            found[texts] = encode()
            for old in list(self._kept)[:-1]:
                if self._bytes() <= self._most_bytes:
                    break
                del self._kept[old]
        return found[texts]

    def _bytes(self) -> int:
        return sum(_bytes_of(encoded) for found in self._kept.values() for encoded in found.values())


def _bytes_of(encoded: Encoded) -> int:
    arrays: list[npt.NDArray[Any]] = [encoded.ids, encoded.starts]
    if encoded.segments is not None:
        arrays.append(encoded.segments)
    if encoded.words is not None:
        arrays += [encoded.words.first, encoded.words.starts]
    return sum(array.nbytes for array in arrays)
