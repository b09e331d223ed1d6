from __future__ import annotations

import numpy as np
import pytest

from space import Vocabulary
from space.vocabulary import SPECIAL_TOKENS


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """12,000 made-up entries with the specials scattered among them, as in BERT's vocabulary."""
    generator = np.random.default_rng(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"##{letter}" for letter in letters), *"0123456789.,!?", "é", "中"]
    words += [f"[unused{i}]" for i in range(50)]
    while len(words) < 12_000 - len(SPECIAL_TOKENS):
        length = int(generator.integers(2, 12))
        word = "".join(generator.choice(list(letters), length))
        words.append(f"##{word}" if generator.random() < 0.2 else word)
    words = list(dict.fromkeys(words))
    tokens = [SPECIAL_TOKENS[0], *words[:100], *SPECIAL_TOKENS[1:], *words[100:]]
    score = generator.random(len(tokens))
    return Vocabulary(tokens, score, generator.integers(0, 9, len(tokens)))
