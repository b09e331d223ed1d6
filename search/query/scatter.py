"""A scatter of trials for a terminal: plain characters, so that it is read without colour too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDEST = 100
HEIGHT = 18
LOG_FROM = 20.0  # largest over smallest value of an axis that is drawn by its logarithm
_MARKS, _ASCII_MARKS = ("·", "●", "◆"), (".", "o", "#")


@dataclass(frozen=True)
class Dot:
    """A trial.

    Attributes:
        x, y: its place; a trial with a NaN is not drawn.
        group: index of its study.
        front: whether it is on the front.
        chosen: whether it is the answer, where that is not the front.
    """

    x: float
    y: float
    group: int
    front: bool
    chosen: bool = False


class _Axis:
    """Maps values to characters."""

    def __init__(self, values: Sequence[float], characters: int) -> None:
        low, high = min(values), max(values)
        self.log = low > 0 and high / low >= LOG_FROM
        if low == high:
            margin = abs(low) * 0.1 or 1.0
            low, high = low - margin, high + margin
        self.low, self.high, self._characters = low, high, characters

    def place(self, value: float) -> int:
        return round(self._share(value) * (self._characters - 1))

    def _share(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, place: int) -> float:
        share = place / max(1, self._characters - 1)
        if self.log:
            return self.low * (self.high / self.low) ** share
        return self.low + share * (self.high - self.low)


def scatter(
    dots: Sequence[Dot], x_name: str, y_name: str, groups: Sequence[str], width: int = 80, *, unicode: bool = True
) -> list[str]:
    """Lines of a drawing.

    Args:
        dots: the trials.
        x_name, y_name: what the axes show.
        groups: names of the studies; of several, each has a letter, a capital one on the front.
        width: characters in a line, at most.
        unicode: whether the terminal can show more than ASCII.
    """
    drawn = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    if not drawn:
        return [f"No trial has both {x_name} and {y_name}: nothing to draw."]
    rows = _Axis([dot.y for dot in drawn], HEIGHT)
    labels = {row: _short(rows.value(row)) for row in (0, HEIGHT // 2, HEIGHT - 1)}
    margin = max(len(label) for label in labels.values()) + 1
    columns_count = max(20, min(width, WIDEST) - margin - 2)
    columns = _Axis([dot.x for dot in drawn], columns_count)
    cells = _cells(drawn, columns, rows, columns_count, len(groups) > 1, unicode)
    bar, tick, line, corner = ("│", "┤", "─", "└") if unicode else ("|", "+", "-", "+")
    scale = " (log scale)"
    lines = [f"{y_name}{scale if rows.log else ''}"]
    for row in reversed(range(HEIGHT)):
        label = labels.get(row, "")
        lines.append(f"{label:>{margin}}{tick if label else bar}{''.join(cells[row])}".rstrip())
    lines.append(" " * margin + corner + line * columns_count)
    lines.append(" " * (margin + 1) + _ticks(columns, columns_count))
    name = f"{x_name}{scale if columns.log else ''}"
    lines.append(" " * (margin + 1) + name.rjust(columns_count))
    lines.append(_legend(groups, any(dot.chosen for dot in drawn), unicode))
    if missing := len(dots) - len(drawn):
        lines.append(f"Not drawn, for want of a value: {missing}.")
    return lines


def _cells(
    drawn: Sequence[Dot], columns: _Axis, rows: _Axis, width: int, several: bool, unicode: bool
) -> list[list[str]]:
    cells = [[" "] * width for _ in range(HEIGHT)]
    # The front is drawn last, over what is behind it.
    for dot in sorted(drawn, key=lambda dot: (dot.chosen, dot.front)):
        marks = _MARKS if unicode else _ASCII_MARKS
        if several and not dot.chosen:
            letter = chr(ord("a") + dot.group % 26)
            mark = letter.upper() if dot.front else letter
        else:
            mark = marks[2 if dot.chosen else dot.front]
        cells[rows.place(dot.y)][columns.place(dot.x)] = mark
    return cells


def _legend(groups: Sequence[str], chosen: bool, unicode: bool) -> str:
    behind, front, answer = _MARKS if unicode else _ASCII_MARKS
    if len(groups) > 1:
        letters = ", ".join(f"{chr(ord('a') + index % 26)} {name}" for index, name in enumerate(groups))
        legend = f"{letters}; capitals are on the front"
    else:
        legend = f"{front} on the front, {behind} other trials"
    return f"{legend}; {answer} the answer" if chosen else legend


def _ticks(axis: _Axis, width: int) -> str:
    """Values under the axis, at its ends and in between."""
    text = [" "] * width
    count = 5 if width >= 60 else 3
    for number in range(count):
        place = round(number * (width - 1) / (count - 1))
        label = _short(axis.value(place))
        start = min(max(0, place - len(label) // 2), width - len(label))
        text[start : start + len(label)] = label
    return "".join(text).rstrip()


def _short(value: float) -> str:
    """A figure in few characters."""
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:.0f}" if size >= 1000 else f"{value:.3g}"
