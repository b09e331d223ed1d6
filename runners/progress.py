"""A line now and then about work that takes minutes."""

from __future__ import annotations

import logging
import time


class ProgressLines:
    """Logs how far the work is, at most every `interval` seconds.

    Args:
        logger: where to.
        what: what is being done, as the start of a sentence.
        total: units of work in all.
        interval: seconds between lines.
        before: units done earlier, whose time is not known.
    """

    def __init__(
        self, logger: logging.Logger, what: str, total: float, interval: float = 12.0, before: float = 0.0
    ) -> None:
        self._logger, self._what, self._total, self._interval = logger, what, total, interval
        self._before = before
        self._begin = self._last = time.monotonic()

    def update(self, done: float, detail: str = "") -> None:
        """Report `done` units; a line is logged if the last one is long enough ago."""
        now = time.monotonic()
        if now - self._last < self._interval or done <= self._before:
            return
        self._last = now
        left = (now - self._begin) * (self._total - done) / (done - self._before)
        self._logger.info("%s: %.0f %%, %s left%s", self._what, 100 * done / self._total, duration(left), detail)


def duration(seconds: float) -> str:
    """A duration in the unit that suits it: 40 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
