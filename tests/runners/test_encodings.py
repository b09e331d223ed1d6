from __future__ import annotations

import numpy as np

from runners.batches import Encoded
from runners.encodings import RecentEncodings


def texts(pieces: int) -> Encoded:
    """One text; 4 bytes a piece, and 16 beside them."""
    return Encoded(np.zeros(pieces, np.int32), None, np.array([0, pieces]), 0)


class Counted:
    def __init__(self, most_bytes: int) -> None:
        self.kept, self.made = RecentEncodings(most_bytes), 0

    def ask(self, vocabulary: int, name: str = "train", pieces: int = 96) -> Encoded:
        def encode() -> Encoded:
            self.made += 1
            return texts(pieces)

        return self.kept.of(vocabulary, name, encode)


def test_the_vocabulary_that_was_not_asked_for_longest_goes() -> None:
    counted = Counted(800)  # two texts of 96 pieces
    first = counted.ask(1)
    counted.ask(2)
    assert counted.ask(1) is first
    counted.ask(3)
    assert counted.made == 3
    assert counted.ask(1) is first
    counted.ask(2)
    assert counted.made == 4


def test_texts_of_one_vocabulary_stay_together_however_large() -> None:
    counted = Counted(800)
    train, transfer = counted.ask(1), counted.ask(1, "transfer", 10_000)
    assert (counted.ask(1), counted.ask(1, "transfer")) == (train, transfer)
    assert counted.made == 2
    counted.ask(2)
    assert counted.ask(1) is not train
    assert counted.made == 4
