"""New texts near given ones: a masked language model draws some of their words anew.

The paper leaves the generator open. Here, as many words as random edits change (`runners.transfer.augment`) are masked
together and drawn in one pass, each from its `_LIKELIEST` likeliest whole words in proportion to their probability, but
not the word that stood there. All else of a text stays as it is written. Of a pair either text changes, or both, and
the model sees both.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from runners.augmentation.masked_model import MaskedModel
from runners.batches import Encoded, sorted_batches
from runners.spelling import text_tokenizer
from runners.task import Examples
from runners.transfer.augment import LEAST, MOST, Copies

_LIKELIEST = 20
_MAX_TOKENS = 1024  # of a batch: logits of all its pieces may be in memory at once
_WORD = re.compile(r"\w+")


class _Masked(NamedTuple):
    """A text, or pair of texts, with words masked.

    Attributes:
        ids, segments: of its pieces.
        places: of the masks among them.
        spans: of the masked words: which text, and from where to where in it.
    """

    ids: list[int]
    segments: list[int]
    places: list[int]
    spans: list[tuple[int, int, int]]


class Resampler:
    """Draws words anew.

    Args:
        model: says which.
        max_length: longest input in word pieces; what lies beyond stays as it is.
    """

    def __init__(self, model: MaskedModel, max_length: int) -> None:
        self._model, self._max_length = model, max_length
        self._pieces = text_tokenizer(model.tokenizer)
        special = set(model.tokenizer.all_special_tokens)
        whole = [bool(_WORD.fullmatch(token)) and token not in special for token in model.vocabulary]
        self._banned = ~torch.tensor(whole)
        self._ids = {token: place for place, token in enumerate(model.vocabulary)}

    def __call__(self, examples: Examples, rows: npt.NDArray[np.int64], generator: np.random.Generator) -> Copies:
        """A copy of each of the rows, which may come more than once; labels are not looked at."""
        made = [self._mask(examples, int(row), generator) for row in rows]
        starts = np.concatenate([[0], np.cumsum([len(one.ids) for one in made])]).astype(np.int64)
        segments = np.array([value for one in made for value in one.segments], np.uint8)
        encoded = Encoded(
            ids=np.array([value for one in made for value in one.ids], np.int32),
            segments=None if examples.pairs is None else segments,
            starts=starts,
            pad=int(self._model.tokenizer.pad_token_id or 0),
        )
        # Drawn before the batches are, so that the words do not depend on how texts are put together.
        noise = [generator.random((len(one.places), _LIKELIEST)) for one in made]
        texts = [[examples.texts[row], "" if examples.pairs is None else examples.pairs[row]] for row in rows]
        for batch in sorted_batches(encoded.lengths, _MAX_TOKENS, _MAX_TOKENS * 512):
            batch = np.array([place for place in batch if made[place].places], np.int64)
            if len(batch) == 0:
                continue
            logits = self._model.logits(encoded, batch, [np.array(made[place].places) for place in batch])
            logits = logits[:, : len(self._banned)].masked_fill(self._banned, -torch.inf)
            first = 0
            for place in batch:
                count = len(made[place].places)
                words = self._draw(logits[first : first + count], made[place], texts[place], noise[place])
                texts[place] = _written(texts[place], made[place].spans, words)
                first += count
        pairs = None if examples.pairs is None else [second for _, second in texts]
        return Copies([first for first, _ in texts], pairs, [int(row) for row in rows])

    def _mask(self, examples: Examples, row: int, generator: np.random.Generator) -> _Masked:
        texts = [examples.texts[row]] + ([] if examples.pairs is None else [examples.pairs[row]])
        encodings = [self._pieces.encode(text, add_special_tokens=False) for text in texts]
        room = self._max_length - 1 - len(texts)
        share = max(1, room // len(texts))
        kept = [min(len(encoding.ids), share) for encoding in encodings]
        if len(texts) == 2:  # what one text leaves free the other one may take; an odd piece is the first one's
            kept[0] = min(len(encodings[0].ids), room - kept[1])
            kept[1] = min(len(encodings[1].ids), room - kept[0])
        which = int(generator.integers(3)) if len(texts) == 2 else 2
        words = []
        for number, (text, encoding, count) in enumerate(zip(texts, encodings, kept, strict=True)):
            end = encoding.offsets[count - 1][1] if count else 0
            if which in (number, 2):
                words += [(number, *match.span()) for match in _WORD.finditer(text) if match.end() <= end]
        # Single letters are mostly parts of what is written with a mark: the t of don't.
        words = [word for word in words if word[2] - word[1] > 1] or words
        drawn = float(generator.uniform(LEAST, MOST))
        order = generator.permutation(len(words))[: max(1, round(drawn * len(words)))]
        chosen = [words[place] for place in sorted(order)]
        tokenizer = self._model.tokenizer
        ids, segments = [int(tokenizer.cls_token_id)], [0]
        places: list[int] = []
        spans: list[tuple[int, int, int]] = []
        for number, (encoding, count) in enumerate(zip(encodings, kept, strict=True)):
            waiting = [span for span in chosen if span[0] == number]
            for piece, (start, end) in zip(encoding.ids[:count], encoding.offsets[:count], strict=True):
                inside = next((span for span in waiting if span[1] <= start and end <= span[2]), None)
                if inside is None:
                    ids.append(piece)
                elif spans[-1:] != [inside]:  # a word of several pieces becomes one mask
                    places.append(len(ids))
                    spans.append(inside)
                    ids.append(int(tokenizer.mask_token_id))
            ids.append(int(tokenizer.sep_token_id))
            segments += [number] * (len(ids) - len(segments))
        return _Masked(ids, segments, places, spans)

    def _draw(
        self, logits: torch.Tensor, masked: _Masked, texts: list[str], noise: npt.NDArray[np.float64]
    ) -> list[str]:
        for row, (number, start, end) in enumerate(masked.spans):
            word = texts[number][start:end]
            for form in (word, word.casefold(), word.capitalize()):
                if form in self._ids:
                    logits[row, self._ids[form]] = -torch.inf
        best = torch.topk(logits, min(_LIKELIEST, logits.shape[1]), dim=1)
        # Gumbel's trick: the largest of noisy logits is a draw in proportion to the probabilities.
        noisy = best.values.numpy() - np.log(-np.log(noise[:, : best.values.shape[1]].clip(1e-12, 1 - 1e-12)))
        picked = best.indices.numpy()[np.arange(len(noisy)), noisy.argmax(1)]
        return [self._model.vocabulary[int(token)] for token in picked]


def _written(texts: list[str], spans: list[tuple[int, int, int]], words: list[str]) -> list[str]:
    found = list(texts)
    for (number, start, end), word in sorted(zip(spans, words, strict=True), reverse=True):
        text = found[number]
        own = text[start:end]
        new = word.upper() if own.isupper() and len(own) > 1 else word.capitalize() if own[:1].isupper() else word
        found[number] = text[:start] + new + text[end:]
    return found
