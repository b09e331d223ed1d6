"""WordPiece with a student's pruned vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from runners.batches import Encoded
from runners.task import Examples
from runners.word_places import WordPlaces
from space.normalization import Normalization
from space.vocabulary import CLS_ID, PAD_ID, SEP_ID

_CHUNK = 4096  # texts per call of the tokenizer: bounds its memory


def wordpiece(tokens: Sequence[str], normalization: Normalization, max_length: int) -> tokenizers.Tokenizer:
    """A BERT tokenizer over the given vocabulary, ids in its order.

    Words that the vocabulary lacks are split into the pieces that it has, else they become `[UNK]`.

    Args:
        tokens: as in `vocab.txt`, special tokens first (`space.vocabulary.SPECIAL_TOKENS`).
        normalization: of text before it is split, as the teacher's tokenizer has it.
        max_length: ids per input, special tokens included; the longer text of a pair is cut first.
    """
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=normalization.clean_text,
        handle_chinese_chars=normalization.handle_chinese_chars,
        strip_accents=normalization.strip_accents,
        lowercase=normalization.lower_case,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS_ID), ("[SEP]", SEP_ID)],
    )
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    return tokenizer


def encode_examples(tokenizer: tokenizers.Tokenizer, examples: Examples) -> Encoded:
    """Word pieces of a split."""
    if examples.words is not None:
        return encode_words(tokenizer, examples.words)
    return encode_texts(tokenizer, examples.texts, examples.pairs)


def encode_words(tokenizer: tokenizers.Tokenizer, texts: Sequence[Sequence[str]]) -> Encoded:
    """Word pieces of texts that are split into words already, with the places of the words."""
    ids: list[int] = []
    lengths: list[int] = []
    word_of_piece: list[list[int | None]] = []
    for start in range(0, len(texts), _CHUNK):
        part = [list(words) for words in texts[start : start + _CHUNK]]
        for encoding in tokenizer.encode_batch(part, is_pretokenized=True):
            ids += encoding.ids
            lengths.append(len(encoding.ids))
            word_of_piece.append(encoding.word_ids)
    return Encoded(
        ids=np.array(ids, np.int32),
        segments=None,
        starts=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        pad=PAD_ID,
        words=WordPlaces.of(word_of_piece, [len(words) for words in texts]),
    )


def encode_texts(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None) -> Encoded:
    """Word pieces of texts, or of pairs of texts."""
    ids: list[int] = []
    types: list[int] = []
    lengths: list[int] = []
    for start in range(0, len(texts), _CHUNK):
        part = slice(start, start + _CHUNK)
        inputs = texts[part] if pairs is None else list(zip(texts[part], pairs[part], strict=True))
        for encoding in tokenizer.encode_batch_fast(list(inputs)):
            found = encoding.ids
            ids += found
            lengths.append(len(found))
            if pairs is not None:
                types += encoding.type_ids
    return Encoded(
        ids=np.array(ids, np.int32),
        segments=None if pairs is None else np.array(types, np.uint8),
        starts=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        pad=PAD_ID,
    )
