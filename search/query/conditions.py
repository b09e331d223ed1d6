"""Which trials a condition keeps.

A trial that lacks a value is kept neither by a comparison with it nor by the comparison's negation: `layer3.ffn_bits >
2` and its opposite are both about trials with a fourth layer. So every part of a condition is answered twice, where it
holds and where it does not; a trial may be in neither (Kleene's three-valued logic).
"""

from __future__ import annotations

import operator
from collections.abc import Set
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from search.query.grammar import (
    All,
    Comparison,
    Condition,
    Literal,
    Membership,
    Name,
    Not,
    names,
    parse,
    refuse,
)
from search.query.table import Column, TrialTable

Mask = npt.NDArray[np.bool_]
_SIGNS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class Answer(NamedTuple):
    """Masks [trials]: where a condition holds, and where it does not."""

    holds: Mask
    fails: Mask


class Where:
    """A condition on the trials of a table.

    Args:
        text: see `search.query.grammar`.

    Raises:
        InputError: it is no condition; shows the place.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._condition = parse(text)
        self.names = {name.text for name in names(self._condition)}

    def answer(self, table: TrialTable, unknown: Set[str] = frozenset()) -> Answer:
        """Where the condition holds and fails.

        Args:
            table: the trials.
            unknown: names whose values are not to be read: as if every trial lacked them.

        Raises:
            InputError: a name that no trial has, or a comparison of a text with a number; shows the place.
        """
        return _Evaluation(self.text, table, unknown).of(self._condition)


class _Evaluation:
    def __init__(self, text: str, table: TrialTable, unknown: Set[str]) -> None:
        self._text, self._table, self._unknown = text, table, unknown

    def of(self, condition: Condition) -> Answer:
        if isinstance(condition, Comparison):
            return self._compare(condition)
        if isinstance(condition, Membership):
            return self._member(condition)
        if isinstance(condition, Not):
            holds, fails = self.of(condition.part)
            return Answer(fails, holds)
        parts = [self.of(part) for part in condition.parts]
        holding, failing = [part.holds for part in parts], [part.fails for part in parts]
        if isinstance(condition, All):
            return Answer(np.logical_and.reduce(holding), np.logical_or.reduce(failing))
        return Answer(np.logical_or.reduce(holding), np.logical_and.reduce(failing))

    def _compare(self, comparison: Comparison) -> Answer:
        if self._leaves_out(comparison.left) or self._leaves_out(comparison.right):
            return self._nowhere()
        left, right = self._operand(comparison.left, comparison.right), self._operand(comparison.right, comparison.left)
        if _is_text(left) != _is_text(right):
            text, number = (
                (comparison.left, comparison.right) if _is_text(left) else (comparison.right, comparison.left)
            )
            if isinstance(text, Literal):
                refuse(self._text, text.at, f"{_shown(number)} is a number.", _unquoted(text.value))
            refuse(self._text, number.at, f"{_shown(text)} is a text, {_shown(number)} is not.", 'Quote a text: "...".')
        if _is_text(left):
            if comparison.sign not in ("==", "!="):
                refuse(self._text, comparison.at, "Texts are compared by == and !=, or by in (...).")
            return _texts(left, comparison.sign, right, len(self._table))
        with np.errstate(invalid="ignore"):
            first, second = _numbers(left), _numbers(right)
            known = np.broadcast_to(~np.isnan(first) & ~np.isnan(second), len(self._table))
            found = np.broadcast_to(_SIGNS[comparison.sign](first, second), len(self._table))
        return Answer(known & found, known & ~found)

    def _member(self, member: Membership) -> Answer:
        if self._leaves_out(member.value):
            return self._nowhere()
        operand = self._operand(member.value, member.choices[0])
        holds = np.zeros(len(self._table), bool)
        fails = np.ones(len(self._table), bool)
        for choice in member.choices:
            if isinstance(choice.value, str) != _is_text(operand):
                if isinstance(choice.value, str):
                    refuse(self._text, choice.at, f"{_shown(member.value)} is a number.", _unquoted(choice.value))
                refuse(self._text, choice.at, f"{_shown(member.value)} is a text, {_shown(choice)} is not.")
            one = self._compare(Comparison(member.value, "==", choice, choice.at))
            holds, fails = holds | one.holds, fails & one.fails
        return Answer(holds, fails)

    def _operand(self, value: Name | Literal, other: Name | Literal) -> Column | float | str:
        if isinstance(value, Literal):
            return value.value
        found = self._table.column(value.text)
        if found is None:
            message, hint = self._table.unknown(value.text)
            if isinstance(other, Name) and (column := self._table.column(other.text)) and column.is_text:
                hint = f'A text is quoted: "{value.text}".'
            refuse(self._text, value.at, message, hint)
        return found

    def _leaves_out(self, value: Name | Literal) -> bool:
        return isinstance(value, Name) and value.text in self._unknown

    def _nowhere(self) -> Answer:
        nothing = np.zeros(len(self._table), bool)
        return Answer(nothing, nothing)


def _unquoted(text: float | str) -> str:
    """What to write in place of a text that is compared with a number."""
    try:
        float(text)
    except ValueError:
        return f'Compare it with a number, not with "{text}".'
    return f"Write {text} without quotes."


def _is_text(operand: Column | float | str) -> bool:
    return operand.is_text if isinstance(operand, Column) else isinstance(operand, str)


def _numbers(operand: Column | float | str) -> npt.NDArray[np.float64]:
    return operand.numbers if isinstance(operand, Column) else np.array(operand, dtype=np.float64)


def _texts(left: Column | float | str, sign: str, right: Column | float | str, count: int) -> Answer:
    first, second = (
        operand.texts if isinstance(operand, Column) else np.full(count, operand, dtype=object)
        for operand in (left, right)
    )
    known = np.array([a is not None and b is not None for a, b in zip(first, second, strict=True)], bool)
    same = np.array(first == second, bool)
    found = same if sign == "==" else ~same
    return Answer(known & found, known & ~found)


def _shown(value: Name | Literal) -> str:
    if isinstance(value, Name):
        return value.text
    return f'"{value.value}"' if isinstance(value.value, str) else f"{value.value:g}"
