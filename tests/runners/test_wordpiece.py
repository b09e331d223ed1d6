from __future__ import annotations

import numpy as np
import pytest
import torch

from runners.batches import collate
from runners.wordpiece import encode_texts, wordpiece
from space.normalization import Normalization
from space.vocabulary import CLS_ID, SEP_ID, SPECIAL_TOKENS, UNKNOWN_ID

TOKENS = [*SPECIAL_TOKENS, "f", "u", "n", "##f", "##u", "##n", "fun", "##ny", "film", ","]


def tokens_of(text: str, **options) -> list[str]:
    tokenizer = wordpiece(TOKENS, **{"normalization": Normalization(), "max_length": 16, **options})
    return [TOKENS[i] for i in encode_texts(tokenizer, [text], None).ids]


def test_pruned_words_fall_back_to_kept_pieces_then_to_unknown():
    assert tokens_of("Funny, film") == ["[CLS]", "fun", "##ny", ",", "film", "[SEP]"]
    assert tokens_of("fuf") == ["[CLS]", "f", "##u", "##f", "[SEP]"]
    assert tokens_of("xylophone fun") == ["[CLS]", "[UNK]", "fun", "[SEP]"]


def test_case_and_accents():
    assert tokens_of("FÜN") == ["[CLS]", "fun", "[SEP]"]
    assert tokens_of("FUN", normalization=Normalization(lower_case=False)) == ["[CLS]", "[UNK]", "[SEP]"]


def test_long_texts_are_cut_and_keep_their_separator():
    assert tokens_of("fun " * 30, max_length=6) == ["[CLS]", *["fun"] * 4, "[SEP]"]


def test_pairs_have_segments_and_the_longer_text_is_cut():
    tokenizer = wordpiece(TOKENS, Normalization(), max_length=8)
    encoded = encode_texts(tokenizer, ["fun " * 9, "fun"], ["film", "film film"])
    feed = {name: value.numpy() for name, value in collate(encoded, np.array([0, 1]), torch.device("cpu")).items()}
    fun, film = TOKENS.index("fun"), TOKENS.index("film")
    assert feed["input_ids"].tolist() == [
        [CLS_ID, fun, fun, fun, fun, SEP_ID, film, SEP_ID],
        [CLS_ID, fun, SEP_ID, film, film, SEP_ID, 0, 0],
    ]
    assert feed["token_type_ids"].tolist() == [[0] * 6 + [1] * 2, [0] * 3 + [1] * 3 + [0] * 2]
    assert feed["attention_mask"].tolist() == [[1] * 8, [1] * 6 + [0] * 2]


def test_same_ids_as_the_reference_tokenizer(tmp_path):
    """transformers' BERT tokenizer reads the same vocab.txt and answers the same ids."""
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    reference = transformers.BertTokenizer.from_pretrained(str(tmp_path), do_lower_case=True)
    texts = ["Funny, film", "fuf", "what a film !", "", "nununu", "FÜN"]
    ours = encode_texts(wordpiece(TOKENS, Normalization(), 64), texts, None)
    expected = [reference(text)["input_ids"] for text in texts]
    found = [ours.ids[a:b].tolist() for a, b in zip(ours.starts, ours.starts[1:], strict=False)]
    assert found == expected
    assert UNKNOWN_ID in ours.ids
