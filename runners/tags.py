"""Words with tags, as a model of sequence labelling answers, and the entities that they spell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from seqeval.metrics.sequence_labeling import get_entities
from tokenizers import Regex, pre_tokenizers

from objectives.quality import OUTSIDE
from runners.batches import Encoded
from space.errors import InputError


class Entity(BaseModel):
    """A named entity.

    Attributes:
        type: of the entity, as in `PER`.
        text: its words; where a text was given, as it stands there.
        first, last: its words, counted from 0, both included.
        score: the least probability of its tags.
    """

    model_config = ConfigDict(frozen=True)

    type: str
    text: str
    first: int
    last: int
    score: float


class Tagged(BaseModel):
    """Answer for one text.

    Attributes:
        words: of the text.
        tags: the most probable tag of each word; `O` (the first of all tags where there is no `O`) for a word of which
            the tokenizer leaves nothing.
        scores: its probability; 0 for such a word.
        entities: what the tags spell, if they are IOB2 tags.
    """

    model_config = ConfigDict(frozen=True)

    words: tuple[str, ...]
    tags: tuple[str, ...]
    scores: tuple[float, ...]
    entities: tuple[Entity, ...]


# What `BertNormalizer(handle_chinese_chars=True)` puts blanks around.
_CHINESE = Regex(
    r"[\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B81F}"
    r"\x{2B920}-\x{2CEAF}\x{2F800}-\x{2FA1F}]"
)
_SPLIT = pre_tokenizers.BertPreTokenizer()
_SPLIT_CHINESE = pre_tokenizers.Sequence([_SPLIT, pre_tokenizers.Split(_CHINESE, "isolated")])


def split_text(text: str, handle_chinese_chars: bool = True) -> tuple[list[str], list[tuple[int, int]]]:
    """The words of a text and where they stand in it.

    They are what is between spaces, each mark of punctuation, and each Chinese character where these are handled: as
    the tokenizer splits text before it looks for word pieces.
    """
    found = (_SPLIT_CHINESE if handle_chinese_chars else _SPLIT).pre_tokenize_str(text)
    return [word for word, _ in found], [span for _, span in found]


def tag_words(
    texts: Sequence[Sequence[str]],
    names: Sequence[str],
    max_length: int,
    encode: Callable[[Sequence[Sequence[str]]], Encoded],
    run: Callable[[Encoded], npt.NDArray[np.float32]],
) -> list[Tagged]:
    """Tag the words of texts.

    A text of more than `max_length` word pieces is read in parts, so that the words at the border of two parts are
    tagged without what stands beyond it.

    Args:
        texts: split into words.
        names: of the tags.
        max_length: of a part.
        encode: words of texts to their pieces.
        run: logits float32 [words, tags] of what `encode` answers.

    Raises:
        InputError: a word is no text.
    """
    for text in texts:
        if wrong := [word for word in text if not isinstance(word, str)]:
            raise InputError(f"A word should be text, not {wrong[0]!r}.")
    found = [np.full((len(text), len(names)), np.nan, np.float32) for text in texts]
    left = {number: (0, max_length) for number, text in enumerate(texts) if text}  # where each next part may lie
    while left:
        # Not all that is left: that would take time in the square of the length. So many words fill a part, unless the
        # tokenizer leaves nothing of some; then twice as many are tried.
        encoded = encode([texts[number][first:end] for number, (first, end) in left.items()])
        assert encoded.words is not None
        logits, starts = run(encoded), encoded.words.starts
        following = {}
        for row, (number, (first, end)) in enumerate(left.items()):
            words, filled = len(texts[number]), encoded.lengths[row] >= max_length
            if not filled and end < words:
                following[number] = first, first + 2 * (end - first)
                continue
            found[number][first:end] = logits[starts[row] : starts[row + 1]]
            answered = np.flatnonzero(encoded.words.answered[starts[row] : starts[row + 1]])
            after = first + int(answered[-1]) + 1 if len(answered) else words
            if filled and after < words:
                following[number] = after, after + max_length
        left = following
    return [_tagged(list(text), names, logits) for text, logits in zip(texts, found, strict=True)]


def as_written(tagged: Tagged, text: str, spans: Sequence[tuple[int, int]]) -> Tagged:
    """The same with entities as they stand in the text."""
    entities = tuple(
        entity.model_copy(update={"text": text[spans[entity.first][0] : spans[entity.last][1]]})
        for entity in tagged.entities
    )
    return tagged.model_copy(update={"entities": entities})


def _tagged(words: list[str], names: Sequence[str], logits: npt.NDArray[np.float32]) -> Tagged:
    unanswered = np.isnan(logits).any(axis=1)
    outside = list(names).index(OUTSIDE) if OUTSIDE in names else 0
    exponent = np.exp(np.nan_to_num(logits - logits.max(-1, keepdims=True)))
    probabilities = exponent / exponent.sum(-1, keepdims=True)
    best = np.where(unanswered, outside, probabilities.argmax(-1))
    tags = [names[tag] for tag in best]
    scores = np.where(unanswered, 0.0, probabilities.max(-1)).tolist()
    entities = []
    if all(name == OUTSIDE or name[:2] in ("B-", "I-") for name in names):
        for kind, first, last in get_entities(tags):
            text, score = " ".join(words[first : last + 1]), min(scores[first : last + 1])
            entities.append(Entity(type=kind, text=text, first=first, last=last, score=score))
    return Tagged(words=tuple(words), tags=tuple(tags), scores=tuple(scores), entities=tuple(entities))
