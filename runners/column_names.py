"""Names of the columns of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from space.errors import InputError


def refuse_doubled(names: Iterable[str], place: str) -> None:
    """Refuse columns of one name.

    Raises:
        InputError: two have it.
    """
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{place} names {doubled[0]!r} twice: one of the two would be lost.", "Name one otherwise.")
