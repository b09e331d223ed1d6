"""Hidden states of words: where student and teacher can be compared, whatever pieces they split them into."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from runners.batches import Encoded
from runners.distill.losses import squared_error
from runners.lessons import WordStates
from space.families.base import LayerStates

NO_WORD = -1  # of special tokens, padding, and words that the teacher did not see


def opens_word(tokens: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Of each entry of a vocabulary, whether it begins a word; special tokens other than `[UNK]` begin none."""
    outside = {"[PAD]", "[CLS]", "[SEP]", "[MASK]"}
    return np.array([not token.startswith("##") and token not in outside for token in tokens])


def count_words(encoded: Encoded, opens: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Words of each text, or pair of texts, and how many of them lie in its first text; int64 [n] each."""
    begins = opens[encoded.ids].astype(np.int64)
    total = _sums(begins, encoded.starts)
    if encoded.segments is None:
        return total, total
    return total, total - _sums(begins * encoded.segments, encoded.starts)


def word_rows(
    encoded: Encoded, tokens: Sequence[str], starts: npt.NDArray[np.int64], first: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    """For each word piece, the number of its word among all words that the teacher saw, or `NO_WORD`.

    Words are matched in order within each text of a pair, so that cutting long inputs at different words on the two
    sides loses only what one side did not see.

    Args:
        encoded: texts in some vocabulary.
        tokens: that vocabulary.
        starts: int64 [n + 1], where the teacher's words of each text begin.
        first: int64 [n], how many of them lie in the first text of a pair.
    """
    opens = opens_word(tokens)
    pieces = encoded.lengths
    before = np.concatenate(([0], np.cumsum(opens[encoded.ids])))  # words that begin before a piece
    place = before[1:] - 1 - np.repeat(before[encoded.starts[:-1]], pieces)
    begin, limit = np.repeat(starts[:-1], pieces), np.repeat(first, pieces)
    if encoded.segments is not None:
        second = encoded.segments == 1
        _, own_first = count_words(encoded, opens)
        place = np.where(second, place - np.repeat(own_first, pieces), place)
        limit = np.where(second, np.repeat(np.diff(starts) - first, pieces), limit)
        begin = np.where(second, begin + np.repeat(first, pieces), begin)
    special = np.array([token in ("[PAD]", "[CLS]", "[SEP]") for token in tokens])[encoded.ids]
    known = ~special & (place >= 0) & (place < limit)
    return np.where(known, begin + place, NO_WORD).astype(np.int32)


def word_means(states: LayerStates, words: Tensor) -> tuple[Tensor, Tensor]:
    """Mean state of each word over those of its pieces that token pruning has kept.

    Args:
        states: of one layer.
        words: int64 [batch, sequence] of the input, from `word_rows`.

    Returns:
        Numbers of the words, rising, int64 [m], and their states float [m, width]. Words that lost all their pieces
        are left out.
    """
    if states.positions is not None:
        words = words.gather(1, states.positions).masked_fill(states.mask == 0, NO_WORD)
    chosen = words != NO_WORD
    rows, inverse = torch.unique(words[chosen], return_inverse=True)
    pieces = states.hidden[chosen].float()
    sums = pieces.new_zeros(len(rows), pieces.shape[1]).index_add_(0, inverse, pieces)
    return rows, sums / torch.bincount(inverse, minlength=len(rows))[:, None]


def layer_map(depth: int, layers: Sequence[int], teacher_depth: int) -> list[int]:
    """For each of a student's layers, the place in `layers` of the teacher's layer nearest in relative depth.

    Layer i of d is compared with layer i L / d of the teacher's L (the uniform map of TinyBERT, Jiao et al. 2020),
    or the kept layer nearest to it; the last with the last.
    """
    kept = np.array(layers)
    return [int(np.abs(kept - (index + 1) * teacher_depth / depth).argmin()) for index in range(depth)]


class WordDistillation(nn.Module):
    """Losses on the states of words, averaged over the student's layers.

    - States: squared error of a learned projection of the student's state, over the variance of the teacher's, so that
      1 is what the teacher's mean would reach.
    - Relations: KL divergence between the softmax over the words of a text of the scaled products of their states
      (MiniLM's relations, Wang et al. 2020, arXiv 2002.10957, of hidden states in place of values).

    With token pruning, words whose pieces are all gone are left out of a layer's loss. A batch without any word has
    losses of 0.

    Args:
        width: of the student.
        depth: of the student.
        words: the teacher's states; their scale fixes the unit of both losses.
    """

    def __init__(self, width: int, depth: int, words: WordStates) -> None:
        super().__init__()
        self.map = layer_map(depth, words.layers, words.depth)
        components = words.scale.shape[1]
        self.projections = nn.ModuleList(nn.Linear(width, components) for _ in range(depth))
        sample = np.asarray(words.values[:: max(1, len(words.values) // 20_000)], np.float32) * words.scale
        self.variances = [max(float(sample[:, layer].var(0).mean()), 1e-12) for layer in range(len(words.layers))]

    def forward(
        self,
        states: Sequence[LayerStates],
        words: Tensor,
        texts: Callable[[Tensor], Tensor],
        targets: Callable[[Tensor], Tensor],
        relations: bool,
        weights: Callable[[Tensor], Tensor | None] = lambda words: None,
    ) -> tuple[Tensor, Tensor | None]:
        """The loss on states and, if `relations`, that on relations.

        Args:
            states: of each layer.
            words: int64 [batch, sequence], the word of each piece.
            texts: from numbers of words [m] to numbers of their texts [m]; words of a text follow one another.
            targets: from numbers of words [m] to the teacher's states float [m, layers, components].
            weights: from numbers of words [m] to how much they count [m], or None where all count alike.
        """
        losses, relation_losses = [], []
        rows, means = word_means(states[0], words)
        taught, counts = targets(rows), weights(rows)
        for index, (state, projection, layer) in enumerate(zip(states, self.projections, self.map, strict=True)):
            if index > 0:
                found, means = word_means(state, words)
                if state.positions is not None:  # pruning may have left fewer words
                    rows, taught, counts = found, targets(found), weights(found)
            projected, target = projection(means), taught[:, layer]
            # A mean over no word is no number; the sum is 0, and so is its gradient.
            error = squared_error(projected, target, counts) if len(rows) else projected.sum()
            losses.append(error / self.variances[layer])
            if relations:
                relation_losses.append(relation_loss(projected, target, texts(rows), self.variances[layer], counts))
        return torch.stack(losses).mean(), torch.stack(relation_losses).mean() if relations else None


def relation_loss(
    learner: Tensor, other: Tensor, texts: Tensor, variance: float, weights: Tensor | None = None
) -> Tensor:
    """`KL(other || learner)` of each word's relations to the words of its text, averaged over the words.

    Args:
        learner, other: states float [m, components].
        texts: int64 [m], numbers of the words' texts; words of a text follow one another.
        variance: mean variance of the components of `other`, the unit of products.
        weights: how much each word counts [m]; by default all alike.
    """
    if len(texts) == 0:
        return learner.sum()  # 0, with a gradient of 0
    # Laid out by texts: products of all words of a batch with one another would mostly be masked.
    _, row, lengths = torch.unique_consecutive(texts, return_inverse=True, return_counts=True)
    column = torch.arange(len(texts), device=texts.device) - (lengths.cumsum(0) - lengths)[row]
    longest = int(lengths.max())
    padding = torch.arange(longest, device=texts.device) >= lengths[:, None, None]
    scale = 1 / (variance * learner.shape[1] ** 0.5)
    logs = []
    for values in (learner, other):
        words = values.new_zeros(len(lengths), longest, values.shape[1]).index_put((row, column), values)
        products = (words @ words.mT * scale).masked_fill(padding, torch.finfo(torch.float32).min)
        logs.append(functional.log_softmax(products, -1))
    difference = (logs[1] - logs[0]).masked_fill(padding, 0.0)
    each = (logs[1].exp() * difference).sum(-1)[row, column]
    return each.mean() if weights is None else (weights * each).mean()


def _sums(values: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sums of the values of each text."""
    before = np.concatenate(([0], np.cumsum(values)))
    return before[starts[1:]] - before[starts[:-1]]
