"""Words of student and teacher find each other, and the losses on them against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from runners.distill.words import (
    NO_WORD,
    WordDistillation,
    count_words,
    layer_map,
    opens_word,
    relation_loss,
    word_means,
    word_rows,
)
from runners.lessons import WordStates
from runners.wordpiece import encode_texts, wordpiece
from space.families.base import LayerStates
from space.normalization import Normalization

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LARGE = [*SPECIAL, "good", "film", "##s", "a", ",", "bad", "g", "f", "##o", "##d", "##i", "##l", "##m"]
SMALL = [*SPECIAL, "a", ",", "bad", "g", "f", "##o", "##d", "##i", "##l", "##m"]
TEXTS, PAIRS = ["a good film", "films, strange films"], ["bad films", "a"]


def encode(tokens: list[str], max_length: int = 32, pairs: bool = False):
    tokenizer = wordpiece(tokens, Normalization(), max_length=max_length)
    return encode_texts(tokenizer, TEXTS, PAIRS if pairs else None)


def words_of_teacher(pairs: bool = False, max_length: int = 32):
    total, first = count_words(encode(LARGE, max_length, pairs), opens_word(LARGE))
    return np.concatenate(([0], np.cumsum(total))), first


def test_words_are_counted_in_each_text_of_a_pair() -> None:
    assert words_of_teacher()[0].tolist() == [0, 3, 7]
    starts, first = words_of_teacher(pairs=True)
    assert starts.tolist() == [0, 5, 10]
    assert first.tolist() == [3, 4]


def test_pieces_of_a_smaller_vocabulary_belong_to_the_same_words() -> None:
    encoded = encode(SMALL)
    starts, first = words_of_teacher()
    rows = word_rows(encoded, SMALL, starts, first)
    found = [(SMALL[piece], int(row)) for piece, row in zip(encoded.ids, rows, strict=True) if piece not in (2, 3)]
    spelt = ["g", "##o", "##o", "##d"]
    assert found[: 1 + len(spelt)] == [("a", 0), *((piece, 1) for piece in spelt)]
    # "films" cannot be spelt without "##s": it is one unknown word, like "strange".
    assert found[-4:] == [("[UNK]", 3), (",", 4), ("[UNK]", 5), ("[UNK]", 6)]
    assert (rows[np.isin(encoded.ids, [2, 3])] == NO_WORD).all()


def test_words_of_the_second_text_are_matched_there() -> None:
    encoded = encode(SMALL, pairs=True)
    starts, first = words_of_teacher(pairs=True)
    rows = word_rows(encoded, SMALL, starts, first)
    assert rows[encoded.segments == 1].tolist() == [3, 4, NO_WORD, 9, NO_WORD]


def test_words_that_one_side_has_cut_off_are_left_out() -> None:
    starts, first = words_of_teacher(max_length=4)  # the teacher saw two pieces of each text
    rows = word_rows(encode(SMALL), SMALL, starts, first)
    assert set(rows.tolist()) == {NO_WORD, *range(int(starts[-1]))}
    starts, first = words_of_teacher()
    rows = word_rows(encode(SMALL, max_length=4), SMALL, starts, first)  # "a", "g" and then "[UNK]", ","
    assert rows.tolist() == [NO_WORD, 0, 1, NO_WORD, NO_WORD, 3, 4, NO_WORD]


def test_state_of_a_word_is_the_mean_of_its_pieces() -> None:
    hidden = torch.arange(12.0).view(1, 6, 2)
    words = torch.tensor([[NO_WORD, 5, 5, 7, NO_WORD, NO_WORD]])
    rows, means = word_means(LayerStates(hidden, None, torch.ones(1, 6)), words)
    assert rows.tolist() == [5, 7]
    torch.testing.assert_close(means, torch.tensor([[3.0, 4.0], [6.0, 7.0]]))


def test_pruned_pieces_take_no_part() -> None:
    words = torch.tensor([[NO_WORD, 5, 5, 7, 8, NO_WORD]])
    hidden = torch.tensor([[[1.0], [2.0], [3.0], [9.0]]])
    state = LayerStates(hidden, torch.tensor([[2, 0, 4, 3]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    rows, means = word_means(state, words)
    assert rows.tolist() == [5, 8]  # the kept places are 2 (of word 5), 0 (special) and 4 (word 8); 3 is padding
    torch.testing.assert_close(means, torch.tensor([[1.0], [3.0]]))


def test_layers_are_mapped_evenly() -> None:
    assert layer_map(3, (2, 4, 6), 6) == [0, 1, 2]
    assert layer_map(1, (2, 4, 6), 6) == [2]
    assert layer_map(2, (2, 4, 6), 6) == [0, 2]
    assert layer_map(6, (2, 4, 6), 6) == [0, 0, 0, 1, 1, 2]
    assert layer_map(4, (4, 8, 12), 12) == [0, 0, 1, 2]


def test_relation_loss_is_the_divergence_within_each_text() -> None:
    generator = torch.Generator().manual_seed(0)
    learner, other = torch.randn(2, 6, 4, generator=generator).double()
    learner.requires_grad_()
    texts, weights = torch.tensor([2, 2, 2, 5, 7, 7]), torch.linspace(0.5, 1.5, 6).double()
    each = []
    for members in ([0, 1, 2], [3], [4, 5]):
        for word in members:
            logs = [values[members] @ values[word] / (0.5 * 2) for values in (learner, other)]
            logs = [log - log.logsumexp(0) for log in logs]
            each.append((logs[1].exp() * (logs[1] - logs[0])).sum())
    for given in (None, weights):
        expected = torch.stack(each).mean() if given is None else (weights * torch.stack(each)).mean()
        found = relation_loss(learner, other, texts, 0.5, given)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(loss, learner, retain_graph=True)[0] for loss in (found, expected)]
        torch.testing.assert_close(*gradients)


def test_relations_of_a_batch_take_no_more_than_those_of_its_texts() -> None:
    """All words with one another would be 64 times as many products."""
    states, texts = torch.zeros(64 * 48, 8), torch.arange(64).repeat_interleave(48)
    with FlopCounterMode(display=False) as counter:
        relation_loss(states, states, texts, 1.0)
    assert counter.get_total_flops() == 2 * 64 * 2 * 48 * 48 * 8


def test_state_loss_is_1_for_a_student_that_answers_the_mean() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(-50, 50, size=(4000, 2, 6)).astype(np.int8)
    scale = np.full((2, 6), 0.1, np.float32)
    words = WordStates(values, scale, np.array([0, 4000]), np.array([4000]), (3, 6), 6)
    objective = WordDistillation(8, 2, words)
    with torch.no_grad():
        for index, projection in enumerate(objective.projections):
            projection.weight.zero_()
            projection.bias.copy_(torch.from_numpy((values[:, index] * scale[index]).mean(0)))
    states = [LayerStates(torch.randn(1, 4000, 8), None, torch.ones(1, 4000)) for _ in range(2)]

    def targets(rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(values[rows.numpy()] * scale)

    loss, relations = objective(states, torch.arange(4000)[None], torch.zeros_like, targets, relations=False)
    assert loss.item() == pytest.approx(1.0, rel=1e-3)
    assert relations is None
