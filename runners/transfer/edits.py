"""Lightly edited copies of a text."""

from __future__ import annotations

import numpy as np

# Share of the words that an edit leaves out; a swap of neighbours goes with every second edit.
LEAST, MOST = 0.02, 0.6


def edited(text: str, generator: np.random.Generator) -> str:
    """The text with words left out and perhaps two neighbours swapped; a text of one word stays as it is.

    The share of words left out is drawn evenly between `LEAST` and `MOST`, at least one word, so that copies run
    from nearly the same to hardly related.
    """
    words = text.split()
    if len(words) < 2:
        return text
    dropped = min(max(1, round(len(words) * float(generator.uniform(LEAST, MOST)))), len(words) - 1)
    kept = np.sort(generator.permutation(len(words))[dropped:])
    found = [words[place] for place in kept]
    if len(found) > 1 and generator.random() < 0.5:
        place = int(generator.integers(len(found) - 1))
        found[place], found[place + 1] = found[place + 1], found[place]
    return " ".join(found)
