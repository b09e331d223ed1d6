"""Batches of mixed lessons, and a training that stops and goes on."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from runners.batches import Encoded
from runners.distill import Course, Distillation
from runners.distill.fit import Regression
from runners.distill.losses import NO_LABEL
from runners.distill.pool import LessonPool
from runners.distill.schedules import stages_of
from runners.distill.words import NO_WORD, WordDistillation
from runners.lessons import NO_ORIGIN, Lessons, WordStates
from runners.plan import FidelitySpec
from space import Recipe, StudentConfig
from space.errors import InputError
from space.families import build_student, parse_config
from space.families.base import LayerStates
from space.families.transformer.config import Layer, TransformerConfig
from space.shape import TaskShape

CPU = torch.device("cpu")
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(97 + i) for i in range(20)), "##x", "##y"]
TEACHER_WIDTH, OUTPUTS = 6, 2


def lessons(count: int, seed: int, labelled: bool = True) -> Lessons:
    """Random texts of five to twelve letters, each a word, with random answers of a teacher of three layers."""
    generator = np.random.default_rng(seed)
    letters = generator.integers(5, 13, count)
    starts = np.concatenate(([0], np.cumsum(letters + 2)))
    ids = np.empty(starts[-1], np.int32)
    for start, end in itertools.pairwise(starts):
        ids[start:end] = [2, *generator.integers(5, 25, end - start - 2), 3]
    words = np.concatenate(([0], np.cumsum(letters)))
    states = generator.integers(-100, 100, (int(words[-1]), 3, 4)).astype(np.int8)
    return Lessons(
        encoded=Encoded(ids, None, starts, 0),
        logits=generator.normal(size=(count, OUTPUTS)).astype(np.float32),
        hidden=generator.normal(size=(count, TEACHER_WIDTH)).astype(np.float16),
        labels=generator.integers(0, OUTPUTS, count) if labelled else None,
        words=WordStates(states, np.full((3, 4), 0.02, np.float32), words, letters.astype(np.int64), (1, 2, 3), 3),
    )


def pool(sources: list[Lessons], shares: list[float], batch_size: int = 8, sample: int | None = None) -> LessonPool:
    return LessonPool(sources, shares, batch_size, sample, TOKENS, regression=False, seed=3)


def texts_of_epoch(found: LessonPool, epoch: int) -> list[tuple[int, ...]]:
    batches = range(epoch * found.batches_per_epoch, (epoch + 1) * found.batches_per_epoch)
    texts = []
    for number in batches:
        inputs = found.batch(number, CPU).inputs
        for row, mask in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True):
            texts.append(tuple(row[: sum(mask)]))
    return texts


def texts_in(source: Lessons) -> list[tuple[int, ...]]:
    starts = source.encoded.starts
    return [tuple(source.encoded.ids[a:b].tolist()) for a, b in itertools.pairwise(starts)]


def test_epochs_take_all_of_the_first_source_and_the_share_of_the_others() -> None:
    own, further = lessons(30, 0), lessons(50, 1, labelled=False)
    mixed = pool([own, further], [0.4])
    epochs = [texts_of_epoch(mixed, epoch) for epoch in range(3)]
    assert mixed.examples_per_epoch == 50
    for texts in epochs:
        assert set(texts) >= set(texts_in(own))
        assert len(texts) == 50
    seen = {text for texts in epochs for text in texts}
    assert seen == {*texts_in(own), *texts_in(further)}  # 60 draws of 50 further texts, without repeats in a round


def test_batches_hold_what_belongs_to_their_texts() -> None:
    own, further = lessons(30, 0), lessons(50, 1, labelled=False)
    mixed = pool([own, further], [0.5])
    known = {text: (source, row) for source in (own, further) for row, text in enumerate(texts_in(source))}
    for number in range(mixed.batches_per_epoch):
        batch = mixed.batch(number, CPU)
        assert batch.words is not None
        for place, length in enumerate(batch.inputs["attention_mask"].sum(1).tolist()):
            source, row = known[tuple(batch.inputs["input_ids"][place, :length].tolist())]
            np.testing.assert_array_equal(batch.logits[place], source.logits[row])
            np.testing.assert_array_equal(batch.hidden[place], source.hidden[row].astype(np.float32))
            assert int(batch.labels[place]) == (NO_LABEL if source.labels is None else source.labels[row])
            words = batch.words[place, 1 : length - 1]
            states = source.words.values[source.words.starts[row] : source.words.starts[row + 1]]
            np.testing.assert_allclose(mixed.word_states(words), states * source.words.scale, rtol=1e-6)
            assert len(set(mixed.texts_of(words).tolist())) == 1


def test_words_of_two_texts_are_told_apart() -> None:
    mixed = pool([lessons(30, 0), lessons(50, 1)], [0.5])
    batch = mixed.batch(0, CPU)
    assert batch.words is not None
    first = [int(words[words >= 0][0]) for words in batch.words]
    assert len(set(mixed.texts_of(torch.tensor(first)).tolist())) == len(first)


def test_sample_is_the_same_in_every_epoch() -> None:
    sampled = pool([lessons(40, 0)], [], sample=10)
    assert sorted(texts_of_epoch(sampled, 0)) == sorted(texts_of_epoch(sampled, 1))
    assert sampled.examples_per_epoch == 10


def test_weights_belong_to_their_texts_and_words() -> None:
    own, further = lessons(30, 0), lessons(50, 1, labelled=False)
    weights = np.linspace(0.5, 1.5, 30, dtype=np.float32)
    mixed = pool([replace(own, weights=weights), further], [0.5])
    known = {text: float(weight) for text, weight in zip(texts_in(own), weights, strict=True)}
    for number in range(mixed.batches_per_epoch):
        batch = mixed.batch(number, CPU)
        assert batch.words is not None
        assert batch.weights is not None
        for place, length in enumerate(batch.inputs["attention_mask"].sum(1).tolist()):
            expected = known.get(tuple(batch.inputs["input_ids"][place, :length].tolist()), 1.0)  # further text: 1
            assert float(batch.weights[place]) == expected
            words = mixed.weights_of(batch.words[place, 1 : length - 1])
            assert words is not None
            assert words.tolist() == [expected] * (length - 2)
    alike = pool([own, further], [0.5])
    assert alike.batch(0, CPU).weights is None
    assert alike.weights_of(torch.tensor([0])) is None


def test_only_chosen_texts_are_learned_from() -> None:
    own, chosen = lessons(30, 0), np.array([2, 3, 5, 8, 13])
    found = pool([replace(own, chosen=chosen), lessons(50, 1)], [0.5])
    assert found.examples_per_epoch == 10
    texts = texts_in(own)
    assert set(texts) & set(texts_of_epoch(found, 0)) == {texts[row] for row in chosen}
    assert pool([replace(own, chosen=chosen)], [], sample=3).examples_per_epoch == 3


def test_states_of_words_count_as_their_texts_do() -> None:
    own = lessons(12, 0)
    weighed = [pool([replace(own, weights=np.full(12, w, np.float32))], []) for w in (1.0, 0.25)]
    assert own.words is not None
    alike, loss_of_words = pool([own], []), WordDistillation(4, 2, own.words)
    batch = alike.batch(0, CPU)
    assert batch.words is not None
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, *batch.words.shape, 4, generator=generator)
    mask = batch.inputs["attention_mask"].float()
    states = [LayerStates(layer, None, mask) for layer in hidden]

    def losses(found: LessonPool) -> list[float]:
        given = (found.texts_of, found.word_states, True, found.weights_of)
        return [loss.item() for loss in loss_of_words(states, batch.words, *given) if loss is not None]

    expected = losses(alike)
    assert losses(weighed[0]) == pytest.approx(expected, rel=1e-6)
    assert losses(weighed[1]) == pytest.approx([0.25 * loss for loss in expected], rel=1e-6)


def test_a_batch_without_words_has_no_loss_on_them() -> None:
    """Blank texts are as short as one another, and so gather in batches of their own."""
    own = lessons(12, 0)
    assert own.words is not None
    found, loss_of_words = pool([own], []), WordDistillation(4, 2, own.words)
    words = torch.full((3, 2), NO_WORD)
    hidden = torch.randn(2, 3, 2, 4, requires_grad=True)
    states = [LayerStates(layer, None, torch.ones(3, 2)) for layer in hidden]
    losses = loss_of_words(states, words, found.texts_of, found.word_states, True, found.weights_of)
    assert [loss.item() for loss in losses] == [0.0, 0.0]
    sum(losses).backward()
    assert hidden.grad is not None
    assert not hidden.grad.any()
    assert found.word_states(torch.empty(0, dtype=torch.int64)).shape == (0, *own.words.values.shape[1:])


def test_a_projection_without_anything_to_fit_stays_as_it_is() -> None:
    fit, linear = Regression(), torch.nn.Linear(4, 3)
    before = linear.weight.clone()
    fit.add(torch.empty(0, 4), torch.empty(0, 3))
    fit.write_to(linear)
    assert torch.equal(linear.weight, before)


def test_shares_that_leave_nothing_for_the_task_are_refused() -> None:
    with pytest.raises(ValueError, match="sum below 1"):
        pool([lessons(10, 0), lessons(10, 1)], [1.0])


RECURRENT = {
    "family": "birnn",
    "vocabulary_keep": 1.0,
    "embedding_width": 16,
    "embedding_bits": 8,
    "block_size": 16,
    "accuracy_level": 4,
    "cell": "lstm",
    "width": 32,
    "projection_bits": 8,
    "layers": [{"hidden_width": 16, "input_bits": 4, "recurrent_bits": 8}],
}


def training(
    epochs: float = 3.0, width: int = 32, bits: int = 4, family: str = "transformer", texts: int = 0, **changes
) -> Distillation:
    torch.manual_seed(7)
    layer = Layer(ffn_width=32, token_keep=0.5, attention_bits=bits, ffn_bits=bits)
    config: StudentConfig = TransformerConfig(
        vocabulary_keep=1.0,
        embedding_width=16,
        embedding_bits=8,
        block_size=16,
        accuracy_level=4,
        width=width,
        heads=2,
        activation="gelu",
        layers=(layer, layer.model_copy(update={"token_keep": 1.0})),
    )
    if family == "birnn":
        config = parse_config(RECURRENT)
    fields = {
        "learning_rate": 1e-3,
        "label_weight": 0.5,
        "logit_weight": 1.0,
        "hidden_weight": 1.0,
        "temperature": 2.0,
        "teacher_learning_rate": 1e-4,
        "state_weight": 1.0,
        "relation_weight": 0.5,
        "initialization": "random",
    }
    own = lessons(40, texts)
    generator = np.random.default_rng(5)
    teacher = SimpleNamespace(
        width=TEACHER_WIDTH,
        train_hidden=own.hidden,
        train_logits=own.logits,
        head_weight=generator.normal(size=(OUTPUTS, TEACHER_WIDTH)).astype(np.float32),
        head_bias=np.zeros(OUTPUTS, np.float32),
    )
    return Distillation(
        build_student(config, TaskShape(outputs=OUTPUTS, segments=1, max_length=16), len(TOKENS)),
        [Course([own, lessons(60, 1, labelled=False)], [0.3], teacher, regression=False)],
        Recipe(**{**fields, **changes}),
        FidelitySpec(epochs=epochs, batch_size=8),
        TOKENS,
        11,
        CPU,
    )


def same(left: Distillation, right: Distillation) -> bool:
    one, other = left.student.state_dict(), right.student.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stop", [1, 9, 13])  # in the first epoch, at pruning, in the second epoch
def test_resumed_training_gives_the_same_weights_bit_for_bit(tmp_path, stop: int) -> None:
    whole, stopped, resumed = training(), training(), training()
    log = whole.run()
    stopped.run(stop)
    stopped.save(tmp_path / "half.safetensors")
    torch.manual_seed(99)
    resumed.restore(tmp_path / "half.safetensors")
    assert resumed.done == stop
    assert not same(whole, resumed)
    assert resumed.run() == log
    assert same(whole, resumed)
    assert [path.name for path in tmp_path.iterdir()] == ["half.safetensors"]


@pytest.mark.parametrize("family", ["transformer", "birnn"])
@pytest.mark.parametrize("stop", [3, 12, 17])  # in the first stage, after it (11 of 33 steps), before a stage is judged
def test_training_in_stages_resumes_bit_for_bit(tmp_path, stop: int, family: str) -> None:
    whole, stopped, resumed = (training(5.0, family=family, schedule="stagewise") for _ in range(3))
    log = whole.run()
    stopped.run(stop)
    stopped.save(tmp_path / "half.safetensors")
    resumed.restore(tmp_path / "half.safetensors")
    assert resumed.run() == log
    assert same(whole, resumed)
    joint = training(5.0, family=family)
    assert joint.steps == whole.steps
    with pytest.raises(InputError, match="another student or recipe"):
        joint.restore(tmp_path / "half.safetensors")


def test_stages_unfreeze_a_student_from_its_top_down() -> None:
    """Snapshots of what has changed since the start, in a first stage of 20 steps whose blocks join at 4, 7 and 10."""
    found = training(8.75, family="birnn", schedule="stagewise", label_weight=0.0, logit_weight=1.0)
    first = stages_of(found._recipe, found.steps)[0]
    joins = first.joins(3)
    start = [[value.clone() for value in block] for block in found.student.blocks()]
    changed = []
    for step in (joins[0], joins[1], joins[2], joins[2] + 1):
        found.run(step)
        now = found.student.blocks()
        changed.append([any(map(lambda a, b: not a.equal(b), *pair)) for pair in zip(start, now, strict=True)])
    assert changed == [[False] * 3, [True, False, False], [True, True, False], [True] * 3]
    found.run()
    assert all(value.requires_grad for value in found.student.parameters())


def test_stages_have_one_loss_each() -> None:
    recipe = training(schedule="stagewise")._recipe
    stages = stages_of(recipe, 100)
    assert [(stage.name, stage.first, stage.last) for stage in stages] == [
        ("representation", 0, 33),
        ("logits", 33, 67),
        ("labels", 67, 100),
    ]
    weights = ("hidden_weight", "state_weight", "relation_weight", "logit_weight", "label_weight")
    kept = [[name for name in weights if getattr(stage.recipe, name) > 0] for stage in stages]
    assert kept == [list(weights[:3]), ["logit_weight"], ["label_weight"]]
    few = recipe.model_copy(update={"logit_weight": 0.0, "label_weight": 0.0})
    assert [(stage.first, stage.last) for stage in stages_of(few, 7)] == [(0, 7)]
    nothing = stages_of(few.model_copy(update=dict.fromkeys(weights, 0.0)), 7)
    assert [(stage.name, stage.first, stage.last) for stage in nothing] == [("labels", 0, 7)]


def test_a_stage_ends_with_the_best_that_it_came_to(monkeypatch) -> None:
    """Judged at its start and four times, best at the second of these: what was learned later is not kept."""
    scores = iter([5.0, 3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr("runners.distill.schedules.StagewiseSchedule._judge", lambda self, done: next(scores))
    changes = {"label_weight": 0.0, "logit_weight": 0.0, "schedule": "stagewise"}
    whole, half = training(5.0, **changes), training(5.0, **changes)
    second = sorted(stages_of(whole._recipe, whole.steps)[0].checks())[1]
    whole.run()
    scores = iter([5.0, 3.0, 1.0])
    half.run(second)
    assert same(whole, half)
    scores = iter([0.5, 3.0, 1.0, 2.0, 4.0])
    harmed, start = training(5.0, **changes), training(5.0, **changes)
    harmed.run()
    start.run(0)
    assert same(harmed, start)


def test_texts_held_out_are_in_no_batch_and_keep_the_number_of_steps() -> None:
    whole = pool([lessons(40, 0), lessons(60, 1)], [0.3])
    held = LessonPool(whole._sources, [0.3], 8, None, TOKENS, regression=False, seed=3, held_out=0.1)
    assert held.whole_batches == whole.batches_per_epoch
    hidden = {tuple(row) for batch in held.held_out_batches(CPU) for row in batch.hidden.tolist()}
    assert len(hidden) == 4
    shown = {
        tuple(row) for number in range(3 * held.batches_per_epoch) for row in held.batch(number, CPU).hidden.tolist()
    }
    assert not hidden & shown
    assert len(shown) > 36


def test_copies_of_texts_held_out_are_not_learned_from() -> None:
    own, copies, origins = lessons(40, 0), lessons(60, 1), np.append(np.arange(40), np.repeat(NO_ORIGIN, 20))
    further = replace(copies, origins=origins, chosen=np.arange(4, 60))

    def learned(further: Lessons, held_out: float) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
        found = LessonPool([own, further], [0.5], 8, None, TOKENS, regression=False, seed=3, held_out=held_out)
        shown = {text for epoch in range(4) for text in texts_of_epoch(found, epoch)}
        return shown & {*texts_in(own)}, shown & {*texts_in(copies)}

    shown, shown_copies = learned(further, 0.2)
    kept = [row < 0 or texts_in(own)[row] in shown for row in origins]
    assert sum(kept) == 52
    assert shown_copies == {text for row, text in enumerate(texts_in(copies)) if kept[row] and row >= 4}
    assert learned(further, 0.0)[1] == {*texts_in(copies)[4:]}
    assert learned(replace(further, chosen=np.flatnonzero(~np.array(kept))), 0.2) == (shown, set())  # none is left


@pytest.mark.parametrize("clipping", ["searched", "learned"])
def test_resumed_training_keeps_its_clipping(tmp_path, monkeypatch, clipping: str) -> None:
    monkeypatch.setattr("runners.distill.loop.CLIPPING_PERIOD", 4)
    whole, stopped, resumed = (training(clipping=clipping) for _ in range(3))
    before = {name: value.clone() for name, value in whole.student.state_dict().items() if "clipping" in name}
    whole.run()
    after = whole.student.state_dict()
    assert any(not value.equal(after[name]) for name, value in before.items())
    stopped.run(6)
    stopped.save(tmp_path / "half.safetensors")
    resumed.restore(tmp_path / "half.safetensors")
    resumed.run()
    assert same(whole, resumed)


def test_quantization_after_training_leaves_training_alone() -> None:
    """Full precision knows no bits: students of 2 and of 8 bits get the same weights, until they are rounded."""
    coarse, fine = (training(bits=bits, quantization="post_training", clipping="searched") for bits in (2, 8))
    coarse.run()
    fine.run()
    for name, value in coarse.student.named_parameters():
        assert value.equal(fine.student.get_parameter(name)), name
    ids = torch.tensor([[2, 7, 9, 11, 3]])
    mask = torch.ones_like(ids)
    precise = fine.student(ids, mask)
    assert precise.equal(coarse.student(ids, mask))
    errors = []
    for student in (coarse.student, fine.student):
        student.search_clipping()
        student.set_rounding(True)
        errors.append((student(ids, mask) - precise).abs().max())
    assert errors[0] > 5 * errors[1] > 0


def test_checkpoint_of_another_student_is_refused(tmp_path) -> None:
    path = tmp_path / "half.safetensors"
    training().save(path)
    with pytest.raises(InputError, match="another student or recipe"):
        training(width=48).restore(path)
    with pytest.raises(InputError, match="another student or recipe"):
        training(state_weight=0.0, relation_weight=0.0).restore(path)
    for other in (training(epochs=1.0), training(label_weight=0.4), training(texts=2)):
        before = {name: value.clone() for name, value in other.student.state_dict().items()}
        with pytest.raises(InputError, match="another training"):
            other.restore(path)
        assert all(torch.equal(value, before[name]) for name, value in other.student.state_dict().items())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="could not be read"):
        training().restore(path)


def test_states_of_words_come_closer() -> None:
    log = training(epochs=30.0, label_weight=0.0, logit_weight=0.0, hidden_weight=0.0, relation_weight=0.0).run()
    assert log.losses[-1] < 0.9 * log.losses[0]


def test_lessons_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="labels has 3 rows in place of 40"):
        replace(lessons(40, 0), labels=np.zeros(3, np.int64))


def test_fitted_projections_are_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(0)
    features, slope = torch.randn(400, 6, generator=generator), torch.randn(3, 6, generator=generator)
    targets = features @ slope.T + 2.0
    regression, linear = Regression(), torch.nn.Linear(6, 3)
    regression.add(features[:150], targets[:150])
    regression.add(features[150:], targets[150:])
    regression.write_to(linear)
    torch.testing.assert_close(linear.weight, slope / 1.01, atol=0.01, rtol=0)  # the ridge takes a hundredth
    torch.testing.assert_close(linear.bias, torch.full((3,), 2.0), atol=0.01, rtol=0)


def test_students_that_know_something_start_with_fitted_projections() -> None:
    losses = [training(initialization=start).run(until=1).losses[0] for start in ("layers", "pretrained")]
    assert losses[1] < 0.9 * losses[0]
