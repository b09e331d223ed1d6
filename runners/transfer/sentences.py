"""Split long texts into sentences of bounded length."""

from __future__ import annotations

import re
from collections.abc import Sequence

import tokenizers

_CHUNK = 4096  # texts per call of the tokenizer: bounds its memory
_PARAGRAPHS = re.compile(r"\n\s*\n")
_CLOSING = "\"'”’»)\\]"
# A match begins with a run of marks and gives nothing back, or a long run would take time in its square.
_ENDS = re.compile(rf"(?<![.!?…])(?P<mark>[.!?…]++)[{_CLOSING}]*+\s+|[。！？]++[」』”’]*+\s*")
_CLAUSES = re.compile(r"[,;:—–-]\s|[，；：、]")
# Words before a full stop that mostly go on.
_ABBREVIATIONS = frozenset(["mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "no", "gen", "col", "capt", "lt"])


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in order, white space collapsed; nothing else is lost.

    A sentence ends at `.`, `!`, `?`, their full-width forms or an empty line; not at a full stop after a common
    abbreviation, after a single letter, or before a small letter.
    """
    found = []
    for paragraph in _PARAGRAPHS.split(text):
        line = " ".join(paragraph.split())
        start = 0
        for match in _ENDS.finditer(line):
            if match["mark"] is None or _ends(line, match.start(), match["mark"], match.end()):
                found.append(line[start : match.end()].rstrip())
                start = match.end()
        if start < len(line):
            found.append(line[start:])
    return found


def fit(texts: Sequence[str], tokenizer: tokenizers.Tokenizer, room: int) -> list[list[str]]:
    """The parts of each text that fit: the text itself, or what comes of halving it until all parts do.

    A text is cut at the comma, else the space, nearest its middle.

    Args:
        texts: sentences.
        tokenizer: without truncation; its word pieces are what is counted, special tokens apart.
        room: most word pieces of a part. Only a single character may take more.
    """
    found: list[list[str]] = []
    for start in range(0, len(texts), _CHUNK):
        part = list(texts[start : start + _CHUNK])
        encodings = tokenizer.encode_batch_fast(part, add_special_tokens=False)
        for text, encoding in zip(part, encodings, strict=True):
            found.append([text] if len(encoding) <= room else _cut(text, tokenizer, room))
    return found


def _ends(line: str, start: int, mark: str, after: int) -> bool:
    """Whether the mark at `start`, before white space, ends a sentence."""
    if "!" in mark or "?" in mark or start == 0 or line[start - 1] == " ":  # tokenised text: " ." is an end
        return True
    if line[after : after + 1].islower():
        return False
    word = line[line.rfind(" ", 0, start) + 1 : start].lstrip("\"'“‘«([").lower()
    return not (len(word) == 1 or "." in word or word in _ABBREVIATIONS)


def _cut(sentence: str, tokenizer: tokenizers.Tokenizer, room: int) -> list[str]:
    """Parts of at most `room` word pieces."""
    found: list[str] = []
    waiting = [sentence]
    while waiting:
        text = waiting.pop()
        encoding = tokenizer.encode(text, add_special_tokens=False)
        if len(encoding) <= room or len(text) == 1:
            found.append(text)
            continue
        place = _place(text, encoding.offsets, room)
        waiting += [part for part in (text[place:].strip(), text[:place].strip()) if part]
    return found


def _place(text: str, offsets: list[tuple[int, int]], room: int) -> int:
    """Where to cut, a character in `range(1, len(text))`."""
    count = len(offsets)
    parts = -(-count // room)
    middle = count * (parts // 2) // parts
    # Two parts must both fit; of more, each is cut again.
    slack = max(0, min(middle - (count - room), room - middle) if parts == 2 else room // 4)
    low, high = offsets[max(0, middle - slack)][0], offsets[min(count - 1, middle + slack)][0]
    target = min(max(1, offsets[middle][0]), len(text) - 1)
    clauses = [match.end() for match in _CLAUSES.finditer(text, max(0, low - 2), high)]
    spaces = [place + 1 for place in range(low, high) if text[place] == " "]
    for places in (clauses, spaces):
        inside = [place for place in places if 0 < place < len(text) and low <= place <= high]
        if inside:
            return min(inside, key=lambda place: abs(place - target))
    return target
