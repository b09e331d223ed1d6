"""Learned augmentation: resampled texts and the selector of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from runners.augmentation.features import domain_score
from runners.augmentation.make import Augmenter
from runners.augmentation.masked_model import named_model, tuned_model
from runners.augmentation.resample import Resampler
from runners.augmentation.selector import (
    Baseline,
    Policy,
    SelectorSettings,
    choose,
    reinforce_loss,
    train_selector,
)
from runners.batches import Encoded
from runners.grammar import sentiment
from runners.lessons import NO_ORIGIN
from runners.plan import ONLY, TrialPlan
from runners.task import Examples, TaskSpec, load_task
from runners.task.matching import match_key
from runners.transfer import TransferSpec, prepare_transfer
from runners.transfer.augment import words_of
from runners.transfer.cleaning import Sieve
from runners.transfer.spec import AugmentSpec
from runners.transfer.store import ORIGINS, open_transfer
from runners.trial import prepare
from space.config import Recipe
from space.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def sentences(count: int, seed: int) -> list[str]:
    return [text for text, _ in sentiment(count, 2, seed=seed)[0]]


def test_the_gradient_is_reinforces() -> None:
    features = torch.tensor([[1.0, 0.5], [-2.0, 1.0], [0.0, 3.0]])
    kept = torch.tensor([1.0, 0.0, 1.0])
    policy = Policy(2)
    with torch.no_grad():
        policy.linear.weight.copy_(torch.tensor([[0.3, -0.2]]))
        policy.linear.bias.fill_(0.1)
    reinforce_loss(policy(features), kept, advantage=1.7).backward()
    # d log p(a) / d logit is a - p, whatever was decided.
    probability = 1 / (1 + np.exp(-(features.numpy() @ [0.3, -0.2] + 0.1)))
    by_hand = -1.7 * ((kept.numpy() - probability)[:, None] * features.numpy()).mean(0)
    np.testing.assert_allclose(policy.linear.weight.grad[0].numpy(), by_hand, rtol=1e-5)
    np.testing.assert_allclose(policy.linear.bias.grad.item(), -1.7 * (kept.numpy() - probability).mean(), rtol=1e-5)


def test_the_baseline_is_a_moving_average() -> None:
    baseline = Baseline(forgetting=0.5)
    assert baseline.advantage(2.0) == 0.0
    assert baseline.advantage(4.0) == pytest.approx(1.0)  # 2 above, of which the deviation is 2; the mean is 3 now
    assert baseline.advantage(2.0) == pytest.approx(-1 / np.sqrt((4 + 1) / 2))
    assert Baseline(0.9).advantage(0.0) == 0.0


def test_the_selector_keeps_samples_with_right_labels() -> None:
    """Half of the samples have wrong labels; a student that learns few samples at a time shows it by its accuracy."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 4)).astype(np.float32)
    truth = x @ [1.0, -1.0, 0.5, 0.0] > 0
    wrong = np.arange(400) % 2 == 1
    labels = np.where(wrong, ~truth, truth)
    test = generator.normal(size=(300, 4))
    expected = test @ [1.0, -1.0, 0.5, 0.0] > 0

    def reward(rows: np.ndarray) -> float:
        direction = ((2 * labels[rows] - 1)[:, None] * x[rows]).mean(0)  # a nearest-mean classifier
        return float(((test @ direction > 0) == expected).mean() - 0.5)

    # What a student that knows a little loses on each sample is larger where the label is wrong; the rest is noise.
    rough = np.array([1.0, -0.6, 0.9, 0.5])
    loss = np.logaddexp(0, -(2 * labels - 1) * (x @ rough))
    features = np.column_stack([loss, generator.normal(size=(400, 3))])
    features = ((features - features.mean(0)) / features.std(0)).astype(np.float32)
    settings = SelectorSettings(episodes=150, batch=48)
    kept, rewards = train_selector(features, reward, np.arange(300), settings, seed=1)
    again, _ = train_selector(features, reward, np.arange(300), settings, seed=1)
    np.testing.assert_array_equal(kept, again)
    best = np.argsort(-kept)[:200]
    by_loss = (~wrong[np.argsort(loss)[:200]]).mean()
    assert (~wrong[best]).mean() > max(0.75, by_loss - 0.06)
    assert kept[300:][wrong[300:]].mean() < kept[300:][~wrong[300:]].mean() - 0.2  # of those never decided on
    assert np.mean(rewards[-30:]) > np.mean(rewards[:30]) + 0.05


def test_groups_keep_the_shares_that_drawing_would_give_them() -> None:
    groups = np.repeat([0, 1], 100)
    probability = np.where(groups == 1, 0.6, 0.4).astype(np.float32) + np.tile(np.arange(100), 2) * 1e-4
    found = choose(probability.astype(np.float32), groups, 50)
    assert np.bincount(groups[found]).tolist() == [20, 30]
    assert found.tolist() == [*range(80, 100), *range(170, 200)]  # the highest of each
    few = choose(np.array([0.1, 0.9, 0.9, 0.1], np.float32), np.array([0, 2, 2, 0]), 3)
    assert few.tolist() == [0, 1, 2]


def test_a_domain_score_is_higher_for_texts_like_the_tasks() -> None:
    generator = np.random.default_rng(0)
    target = generator.normal(size=(60, 5)).astype(np.float32)
    target[:, 0] += 2
    samples = generator.normal(size=(80, 5)).astype(np.float32)
    samples[:20, 0] += 2
    found = domain_score(samples, target)
    assert found[:20].mean() > found[20:].mean() + 1


def test_resampled_texts_differ_hold_no_special_tokens_and_are_seeded(model: Path) -> None:
    train = Examples(["The plot, was dull!", *sentences(15, 0)], None, np.zeros(16))
    masked = tuned_model(model, train, 32, seed=0)
    resampler = Resampler(masked, 32)
    rows = np.arange(16)
    made = resampler(train, rows, np.random.default_rng(3))
    assert made == resampler(train, rows, np.random.default_rng(3))
    assert made != resampler(train, rows, np.random.default_rng(4))
    assert all(new != old for new, old in zip(made.texts, train.texts, strict=True))
    assert not any("[" in text or "##" in text for text in made.texts)
    assert made.texts[0].endswith("!")
    assert "," in made.texts[0]
    assert made.texts[0][0].isupper()
    for new, old in zip(made.texts, train.texts, strict=True):
        assert len(words_of(new)) == len(words_of(old))
        changed = sum(a != b for a, b in zip(words_of(new), words_of(old), strict=True))
        assert 1 <= changed <= max(1, round(0.4 * len(words_of(old))))
    pairs = Examples(train.texts, train.texts[::-1], np.zeros(16))
    both = resampler(pairs, rows, np.random.default_rng(0))
    sides = {(a != c, b != d) for a, b, c, d in zip(both.texts, both.pairs, pairs.texts, pairs.pairs, strict=True)}
    assert sides == {(True, False), (False, True), (True, True)}


def test_a_tuned_model_has_learned_which_words_fit(model: Path) -> None:
    """A word that always stands beside another is drawn there."""
    words = (model / "vocab.txt").read_text().split()
    names = [word for word in words if word.isalpha() and len(word) > 3][:12]
    texts = [f"{name} {names[0]} {names[1]}" for name in names[2:8]] * 24
    masked = tuned_model(model, Examples(texts, None, np.zeros(len(texts))), 16, seed=0)
    ids = masked.tokenizer(f"{names[5]} [MASK] {names[1]}", return_tensors="np")["input_ids"][0]
    encoded = Encoded(ids.astype(np.int32), None, np.array([0, len(ids)]), 0)
    place = np.flatnonzero(ids == masked.tokenizer.mask_token_id)
    logits = masked.logits(encoded, np.array([0]), [place])
    assert masked.vocabulary[int(logits.argmax())] == names[0]


def test_a_named_model_needs_a_head_for_masked_words(model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"transfer\.augment\.masked_model: .* is no masked language model: it lacks cls"
    ):
        named_model(str(model), 32)
    with pytest.raises(InputError, match=r"transfer\.augment\.masked_model: Teacher folder"):
        named_model(str(tmp_path), 32)
    folder = tmp_path / "masked"
    BertTokenizer.from_pretrained(model).save_pretrained(folder)
    size = len((model / "vocab.txt").read_text().split())
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=40, **shape)).save_pretrained(folder)
    train = Examples(sentences(5, 0), None, np.zeros(5))
    made = Resampler(named_model(str(folder), 32), 32)(train, np.arange(5), np.random.default_rng(0))
    assert len(made.texts) == 5
    assert made.texts != train.texts
    # Pairs of long texts are cut to what is read, whether that leaves an odd number of pieces for them or an even one.
    long = Examples([" ".join(sentences(9, 1))], [" ".join(sentences(9, 2))], np.zeros(1))
    for length in (39, 40):
        masked = Resampler(named_model(str(folder), length), length)
        assert len(masked._mask(long, 0, np.random.default_rng(0)).ids) <= length
        assert masked(long, np.zeros(1, int), np.random.default_rng(0)).texts != long.texts
    with pytest.raises(
        InputError, match=r"masked_model: max_length 41 is more than the 40 tokens that masked model .*masked reads"
    ):
        named_model(str(folder), 41)


def test_students_draw_the_texts_of_the_method_that_their_recipe_names(model: Path, tmp_path: Path, caplog) -> None:
    (tmp_path / "more.txt").write_text("\n".join(sentences(80, 7)))
    spec = TransferSpec(
        sources={"path": str(tmp_path / "more.txt")},
        augment={"count": 30, "methods": ["random", "masked", "learned"], "candidates": 3, "episodes": 5},
    )
    data = {"grammar": "sentiment", "train": 60, "validation": 20, "seed": 0}
    plan = TrialPlan(
        study="augmented", task={"data": data, "max_length": 32}, teacher={"model": str(model)},
        device={"tokens": 8, "latency": "estimated"}, limits={}, fidelity={}, transfer=spec,
    )  # fmt: skip
    with caplog.at_level("INFO"):
        prepared = prepare(plan)
    assert "Selector of augmented text" in caplog.text
    transfer = prepared.tasks[ONLY].transfer
    others = len(transfer) - 90
    assert transfer.augmented == {
        "random": [others, others + 30], "masked": [others + 30, others + 60], "learned": [others + 60, others + 90],
    }  # fmt: skip
    assert transfer.kinds == {"more.txt": others, "augmented": 30, "masked": 30, "learned": 30}
    assert len({*map(match_key, transfer.texts)}) == len(transfer)
    task = prepared.tasks[ONLY].task
    assert not {*map(match_key, transfer.texts)} & {*map(match_key, [*task.train.texts, *task.validation.texts])}
    recipe = Recipe(
        learning_rate=1e-3, label_weight=0, logit_weight=1, hidden_weight=0, temperature=1, teacher_learning_rate=0,
        initialization="random", transfer_share=0.5,
    )  # fmt: skip
    size = prepared.vocabulary.size(0.5)

    def drawn(augmentation: str) -> list[int] | None:
        course = prepared.course(ONLY, size, recipe.model_copy(update={"augmentation": augmentation}))
        rows = course.sources[1].chosen
        return None if rows is None else rows.tolist()

    assert drawn("all") is None
    assert drawn("none") == list(range(others))
    assert drawn("learned") == [*range(others), *range(others + 60, others + 90)]
    assert prepared.course(ONLY, size, recipe).sources[1].origins is transfer.origins
    assert (transfer.origins[:others] == NO_ORIGIN).all()
    for method, (start, stop) in transfer.augmented.items():
        places = [place for place in range(start, stop) if transfer.origins[place] != NO_ORIGIN]
        assert len(places) == {"random": 30, "masked": 15}.get(method, len(places))  # the others are of the source
        pairs = [(words_of(transfer.texts[p]), words_of(task.train.texts[transfer.origins[p]])) for p in places]
        assert np.mean([len({*copy} & {*text}) / len({*text}) for copy, text in pairs]) > 0.6
        assert method == "random" or all(len(copy) == len(text) for copy, text in pairs)
    (transfer.folder / ORIGINS).unlink()
    assert open_transfer(transfer.folder).origins is None  # as in entries of before
    alone = prepare_transfer(TransferSpec(augment=20), task, prepared.tasks[ONLY].teacher)
    assert alone.rows_of("none").tolist() == alone.rows_of("learned").tolist() == []


def test_too_many_copies_are_refused(model: Path) -> None:
    task = load_task(TaskSpec(data={"grammar": "sentiment", "train": 12, "validation": 10, "seed": 0}, max_length=32))

    class Full(Sieve):
        def admits(self, key: object) -> bool:
            return len(self._taken) < 3 and super().admits(key)

    augmenter = Augmenter(AugmentSpec(count=9, methods="masked"), task, None, model, 16, 0)
    with pytest.raises(InputError, match="asks for 9 copies, but only 3 different ones could be drawn from 12 texts"):
        augmenter.masked(Full((), ()))
    with pytest.raises(InputError, match=r"students learn from 12 texts of the train split.* needs at least 16"):
        augmenter.learned(Full((), ()), None, None)
