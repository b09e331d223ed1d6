"""When a search gives up because nothing that is proposed keeps the limits."""

from __future__ import annotations

from math import inf

from space.errors import InputError


class Rejections:
    """Proposals in a row that broke a limit, by who found it out.

    Attributes:
        proposed: rejected before training, since the last one that was not.
        measured: handed out and rejected by their workers, in the order of the trials' numbers. Only those before the
            oldest one that still runs count: a rejection takes seconds and a training minutes, so that among many
            workers rejections come first.
    """

    def __init__(self) -> None:
        self.proposed = 0
        self.measured = 0
        self._running: set[int] = set()
        self._broke: dict[int, bool] = {}

    def keep(self) -> None:
        """A proposal kept those limits."""
        self.proposed = 0

    def start(self, number: int) -> None:
        """It was handed out."""
        self.keep()
        self._running.add(number)

    def settle(self, number: int, *, handed_out: bool, broke: bool) -> None:
        """A trial has ended, is paused, or was not handed out: was a limit broken?"""
        if not handed_out:
            self.proposed += broke
            return
        self._running.discard(number)
        self._broke[number] = broke
        oldest = min(self._running, default=inf)
        for ended in sorted(ended for ended in self._broke if ended < oldest):
            self.measured = self.measured + 1 if self._broke.pop(ended) else 0

    def check(self, most: int, study: str) -> None:
        """Raise InputError where a row has as many as ``most``."""
        longest = max(self.proposed, self.measured)
        if longest >= most:
            raise InputError(
                f"{longest} proposals in a row broke the limits of study {study!r}.",
                "Loosen limits, or narrow the space to smaller students.",
            )
