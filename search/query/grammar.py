"""The language of conditions: `latency_ms < 5 and (activation in ("gelu", "relu") or not depth > 2)`.

    condition  = both ("or" both)*
    both       = negation ("and" negation)*
    negation   = "not" negation | "(" condition ")" | comparison
    comparison = value (("<" | "<=" | ">" | ">=" | "==" | "=" | "!=") value)+
               | value ["not"] "in" "(" literal ("," literal)* ")"
    value      = name | literal
    literal    = ["-"] number | text in single or double quotes | "true" | "false"

A chain means what it means in mathematics: `0.8 < quality <= 0.9`. Nothing is ever executed: a condition becomes a tree
of the few classes below, and `search.query.conditions` looks the names up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from space.errors import InputError

DEEPEST = 50  # parentheses and negations in each other
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?(?P<rest>[\w%]*))
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<name>[^\W\d][\w-]*(?:\.[\w-]+)*)
    |(?P<sign><=|>=|==|!=|<|>|=|\(|\)|,|-))""",
    re.VERBOSE,
)
_WORDS = frozenset({"and", "or", "not", "in"})
_OTHERWISE = {"&": "and", "|": "or", "!": "not", "~": "not", "[": "(", "]": ")", "{": "(", "}": ")"}


@dataclass(frozen=True)
class Name:
    """A metric or a parameter; `at` is its place in the condition."""

    text: str
    at: int


@dataclass(frozen=True)
class Literal:
    """A number (true and false are 1 and 0) or a text."""

    value: float | str
    at: int


@dataclass(frozen=True)
class Comparison:
    """`left sign right`; `at` is the place of the sign."""

    left: Name | Literal
    sign: str
    right: Name | Literal
    at: int


@dataclass(frozen=True)
class Membership:
    """`value in (choices)`."""

    value: Name | Literal
    choices: tuple[Literal, ...]


@dataclass(frozen=True)
class Not:
    """The opposite."""

    part: Condition


@dataclass(frozen=True)
class All:
    """Every part holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Either:
    """At least one part holds."""

    parts: tuple[Condition, ...]


Condition = Comparison | Membership | Not | All | Either


def refuse(text: str, at: int, message: str, hint: str | None = None) -> NoReturn:
    """Raise an InputError that shows the place in the condition."""
    line, caret = text.replace("\n", " ").replace("\t", " "), " " * at + "^"
    told = message if hint is None else f"{message} {hint}"
    raise InputError(f"--where: {told}\n  {line}\n  {caret}")


def parse(text: str) -> Condition:
    """The tree of a condition.

    Raises:
        InputError: it is none; shows the place.
    """
    return _Parser(text).parse()


@dataclass(frozen=True)
class _Token:
    kind: str  # number, text, name, word, sign or end
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            sign = text[at]
            if sign in "\"'":
                refuse(text, at, "This text has no closing quote.")
            other = _OTHERWISE.get(sign)
            refuse(text, at, f"{sign!r} means nothing here.", None if other is None else f"Write {other!r}.")
        kind = str(match.lastgroup if match["number"] is None else "number")
        start = match.start(kind)
        if kind == "number" and match["rest"]:
            percent = match["rest"] == "%"
            hint = "Of a share, write 0.01 for 1 %." if percent else "Units are those of the tables: ms and bytes."
            refuse(text, match.start("rest"), f"{match['number']!r} is no number.", hint)
        if kind == "name" and match[kind].lower() in _WORDS:
            found.append(_Token("word", match[kind].lower(), start))
        else:
            found.append(_Token(kind, match[kind], start))
        at = match.end()
    return [*found, _Token("end", "", len(text.rstrip()))]


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    def parse(self) -> Condition:
        if len(self._tokens) == 1:
            raise InputError("--where is empty.", 'Give a condition like "latency_ms < 5 and quality > 0.85".')
        found = self._condition()
        left = self._peek()
        if left.kind != "end":
            hint = "There is one ')' too many." if left.text == ")" else "Join comparisons by 'and' or 'or'."
            refuse(self._text, left.at, f"The condition should end before {left.text!r}.", hint)
        return found

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> _Token | None:
        """The next token if it is one of these words or signs."""
        token = self._peek()
        if token.kind in ("word", "sign") and token.text in texts:
            self._next += 1
            return token
        return None

    def _condition(self) -> Condition:
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _both(self) -> Condition:
        parts = [self._negation()]
        while self._take("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _negation(self) -> Condition:
        self._depth += 1
        if self._depth > DEEPEST:
            refuse(self._text, self._peek().at, f"More than {DEEPEST} conditions stand in each other here.")
        found: Condition
        if self._take("not"):
            found = Not(self._negation())
        elif opened := self._take("("):
            found = self._condition()
            if not self._take(")"):
                refuse(self._text, opened.at, "This parenthesis is not closed.")
        else:
            found = self._comparison()
        self._depth -= 1
        return found

    def _comparison(self) -> Condition:
        left = self._value("a name, a number or a text")
        negated = self._take("not")
        if negated and self._peek().text != "in":
            refuse(
                self._text, negated.at, "After a value, 'not' goes with 'in'.", "Negate a comparison in front of it."
            )
        if self._take("in"):
            member = Membership(left, self._choices())
            return Not(member) if negated else member
        parts: list[Condition] = []
        while sign := self._take(*COMPARISONS, "="):
            right = self._value("a value to compare with")
            parts.append(Comparison(left, "==" if sign.text == "=" else sign.text, right, sign.at))
            left = right
        if not parts:
            token = self._peek()
            found = "the end" if token.kind == "end" else repr(token.text)
            refuse(
                self._text,
                token.at,
                f"A comparison is missing before {found}.",
                f"Known: {', '.join(COMPARISONS)}, in.",
            )
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _choices(self) -> tuple[Literal, ...]:
        opened = self._take("(")
        if not opened:
            refuse(self._text, self._peek().at, "After 'in', choices stand in parentheses.", "Like depth in (1, 2).")
        choices: list[Literal] = []
        while not self._take(")"):
            if choices and not self._take(","):
                refuse(self._text, self._peek().at, "Choices have a comma between them.")
            if choices and self._take(")"):
                break
            value = self._value("a choice")
            if isinstance(value, Name):
                refuse(self._text, value.at, "A choice is a number or a text in quotes.", f"Write {value.text!r}.")
            choices.append(value)
        if not choices:
            refuse(self._text, opened.at, "There is no choice in these parentheses.")
        return tuple(choices)

    def _value(self, wanted: str) -> Name | Literal:
        minus = self._take("-")
        token = self._peek()
        if token.kind == "number":
            self._next += 1
            try:
                number = float(token.text)
            except ValueError:
                refuse(self._text, token.at, f"{token.text!r} is no number.")
            return Literal(-number if minus else number, (minus or token).at)
        if minus:
            refuse(self._text, token.at, "After '-' stands a number.")
        if token.kind == "text":
            self._next += 1
            return Literal(token.text[1:-1], token.at)
        if token.kind == "name":
            self._next += 1
            if token.text.lower() in ("true", "false"):
                return Literal(float(token.text.lower() == "true"), token.at)
            return Name(token.text, token.at)
        found = "the end" if token.kind == "end" else repr(token.text)
        hint = "There is one '(' too many." if token.kind == "end" and self._depth > 1 else None
        refuse(self._text, token.at, f"{wanted.capitalize()} should stand before {found}.", hint)


def names(condition: Condition) -> list[Name]:
    """The names in a condition, in order."""
    if isinstance(condition, Not):
        return names(condition.part)
    if isinstance(condition, (All, Either)):
        return [name for part in condition.parts for name in names(part)]
    values = [condition.value] if isinstance(condition, Membership) else [condition.left, condition.right]
    return [value for value in values if isinstance(value, Name)]
