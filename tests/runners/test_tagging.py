"""Sequence labelling: words meet their pieces, losses are per word, and a whole trial that tags."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers.normalizers import BertNormalizer
from torch.nn import functional

from objectives.quality import score_tags
from runners.arm_quality import measure_arm_quality
from runners.batches import collate, encode
from runners.byte_rows import ByteRows
from runners.distill.losses import NO_LABEL, CrossDistillation
from runners.distill.pool import LessonPool
from runners.evaluate import open_session, run_model
from runners.grammar import sentiment
from runners.lessons import Lessons
from runners.plan import ONLY, FidelitySpec, TrialPlan
from runners.predict import Bundle, load_bundle
from runners.record import TrialRecord
from runners.spelling import SpecialIds, spell, split_words, text_tokenizer
from runners.tags import as_written, split_text, tag_words
from runners.task import Examples
from runners.teacher.model import load_tokenizer
from runners.transfer.scores import describe_scores
from runners.transfer.spec import TransferSpec
from runners.transfer.store import open_transfer, read_words
from runners.trial import cost_predictor, measure_latency, prepare, run_trial
from runners.word_places import NO_PIECE, WordPlaces
from runners.wordpiece import encode_examples, encode_words, wordpiece
from space import InputError, JointSpace, SpaceSpec, deployed_bytes
from space.config import Recipe
from space.normalization import Normalization
from space.vocabulary import SPECIAL_TOKENS

CPU = torch.device("cpu")
RECIPE = Recipe(
    label_weight=0.5,
    logit_weight=1.5,
    hidden_weight=0.0,
    temperature=2.0,
    learning_rate=1e-3,
    teacher_learning_rate=0.0,
    initialization="random",
)
SMALL = [*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz.", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
TEXTS = [["good", "U.S.", "films"], ["\u200b", "Ünder"], ["a"], ["x", "?!", "\x00", "b"]]


def test_first_pieces_are_those_of_the_words() -> None:
    for tokens in (SMALL, [*SMALL, "good", "films", "under"]):
        encoded = encode_words(wordpiece(tokens, Normalization(), max_length=32), TEXTS)
        words = [word for text in TEXTS for word in text]
        pieces = [
            tokens[encoded.ids[encoded.starts[row] + place]] if place != NO_PIECE else None
            for row, text in enumerate(TEXTS)
            for place in encoded.words.first[encoded.words.starts[row] :][: len(text)]
        ]
        # Characters that the tokenizer removes leave a word without a piece; "?" is in no vocabulary.
        expected = {"\u200b": None, "\x00": None, "?!": "[UNK]", "Ünder": "under" if "under" in tokens else "u"}
        for word, piece in zip(words, pieces, strict=True):
            assert piece == expected.get(word, word if word in tokens else word[0].lower()), word


def test_teacher_and_student_find_the_same_words(model: Path) -> None:
    tokenizer, pieces = load_tokenizer(model, "tiny")
    examples = Examples([" ".join(text) for text in TEXTS], None, np.zeros(10, np.int64), TEXTS)
    theirs = encode(tokenizer, examples, 32)
    ours = encode_examples(wordpiece(pieces.vocabulary, Normalization(), max_length=32), examples)
    np.testing.assert_array_equal(theirs.words.first, ours.words.first)
    np.testing.assert_array_equal(theirs.ids, ours.ids)
    joined = encode(tokenizer, Examples(examples.texts, None, np.zeros(4, np.int64)), 32)
    np.testing.assert_array_equal(theirs.ids, joined.ids)  # as the states of words see the text


def test_words_that_are_cut_off_have_no_piece() -> None:
    encoded = encode_words(wordpiece(SMALL, Normalization(), max_length=6), [["ab", "cd", "ef"], ["a"]])
    assert encoded.words.first.tolist() == [1, 3, NO_PIECE, 1]
    words, rows, places = encoded.words.pick(np.array([1, 0]))
    assert (words.tolist(), rows.tolist(), places.tolist()) == ([3, 0, 1], [0, 1, 1], [1, 1, 3])


def test_entity_f1_of_a_case_counted_by_hand() -> None:
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    truth = [1, 2, 0, 3, 1, 0, 3, 4]  # entities: PER 0-1, LOC 3; PER 4, LOC 6-7
    said = [1, 2, 0, 1, 1, 0, 3, 0]  # right: PER 0-1, PER 4; wrong: PER 3 in place of LOC, LOC 6 in place of LOC 6-7
    starts = [0, 4, 8]
    logits = np.eye(5)[said]
    assert score_tags("entity_f1", truth, logits, starts, names) == pytest.approx(2 / 4)
    assert score_tags("accuracy", truth, logits, starts, names) == pytest.approx(6 / 8)
    logits[0] = np.nan  # now I-PER opens the entity, which is then one word too short
    assert score_tags("entity_f1", truth, logits, starts, names) == pytest.approx(1 / 4)
    assert score_tags("accuracy", truth, logits, starts, names) == pytest.approx(5 / 8)
    # An entity does not go on in the next sentence.
    assert score_tags("entity_f1", [1, 2], np.eye(5)[[1, 2]], [0, 1, 2], names) == 1.0
    assert score_tags("entity_f1", [0, 0], np.eye(5)[[0, 0]], [0, 2], names) == 0.0
    with pytest.raises(ValueError, match="not finite"):
        score_tags("entity_f1", [0], [[np.inf, 0, 0, 0, 0]], [0, 1], names)
    with pytest.raises(ValueError, match="differ"):
        score_tags("entity_f1", [0, 0], np.eye(5)[[0, 0]], [0, 1], names)


def word_lessons() -> Lessons:
    encoded = encode_words(wordpiece(SMALL, Normalization(), max_length=6), [["ab", "cd", "ef"], ["a", "b"], ["c"]])
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(6, 3)).astype(np.float16)
    logits[[4, 5]] = np.nan  # the teacher did not see "b" and "c"; the student does not see "ef"
    return Lessons(encoded, logits, generator.normal(size=(6, 8)).astype(np.float16), np.arange(6) % 3)


def test_batches_hold_the_words_that_both_have_seen() -> None:
    lessons = word_lessons()
    pool = LessonPool([lessons], [], 8, None, None, False, 0)
    assert pool.examples_per_epoch == 2  # "c" teaches nothing
    batch = pool.batch(0, CPU)
    lengths = batch.inputs["attention_mask"].sum(1).tolist()
    words = [3, 0, 1] if lengths[0] == 4 else [0, 1, 3]
    np.testing.assert_array_equal(batch.logits.numpy(), lessons.logits[words].astype(np.float32))
    np.testing.assert_array_equal(batch.hidden.numpy(), lessons.hidden[words].astype(np.float32))
    assert batch.labels.tolist() == lessons.labels[words].tolist()
    states = torch.arange(2 * 6, dtype=torch.float32).view(2, 6, 1).expand(2, 6, 8)
    places = [1, 7, 9] if lengths[0] == 4 else [1, 3, 7]
    assert batch.answers(states)[:, 0].tolist() == places


def test_words_without_tags_have_answers_of_their_own() -> None:
    own = word_lessons()
    further = replace(word_lessons(), logits=own.logits + 1, hidden=own.hidden + 1, labels=None)
    pool = LessonPool([own, further], [0.5], 8, None, None, False, 0)
    batch = pool.batch(0, CPU)
    assert pool.examples_per_epoch == 4
    drawn = {int(row) for epoch in range(9) for batch in pool._shuffle(epoch) for row in batch}
    assert drawn == {0, 1, 3, 4}  # "c" teaches nothing, with a tag or without
    nothing = replace(further, logits=np.full_like(further.logits, np.nan))
    assert LessonPool([own, nothing], [0.5], 8, None, None, False, 0).examples_per_epoch == 2
    untagged = (batch.labels == NO_LABEL).numpy()
    assert 0 < untagged.sum() < len(untagged)
    for found, given in ((batch.logits, own.logits), (batch.hidden, own.hidden)):
        for row, without in zip(found.numpy(), untagged, strict=True):
            known = (given + without).astype(np.float32)
            assert (np.nan_to_num(np.abs(known - row), nan=9).max(axis=1) < 1e-6).any()
    texts = replace(further, encoded=replace(own.encoded, words=None), logits=own.logits[:3], hidden=own.hidden[:3])
    with pytest.raises(ValueError, match="cannot be mixed"):
        LessonPool([own, texts], [0.5], 8, None, None, False, 0)


@pytest.mark.parametrize("max_length", [5, 32])
def test_transfer_text_has_its_words_where_the_tokenizer_has_them(model: Path, max_length: int) -> None:
    tokenizer, _ = load_tokenizer(model, "tiny")
    texts = ["", "a good film, i say.", "x", "\u200b", "the old ünder \u200b film", ""]
    words = split_words(text_tokenizer(tokenizer), texts, None)
    small = wordpiece(SMALL, Normalization(), max_length=max_length)
    found = spell(words, small, SpecialIds(2, 3, 0), max_length, per_token=True)
    as_read = encode_words(
        small, [[], ["a", "good", "film", ",", "i", "say", "."], ["x"], [], ["the", "old", "ünder", "film"], []]
    )
    np.testing.assert_array_equal(found.ids, as_read.ids)
    np.testing.assert_array_equal(found.words.first, as_read.words.first)
    np.testing.assert_array_equal(found.words.starts, as_read.words.starts)


def test_rows_of_bytes_are_the_rows_within_half_a_unit() -> None:
    given = np.random.default_rng(0).normal(size=(20, 16)) * np.arange(20)[:, None]
    rows = ByteRows(np.zeros((20, 16), np.int8), np.zeros(20, np.float32))
    rows[np.arange(10, 20)] = given[10:]
    rows[:10] = given[:10]
    assert (rows.shape, len(rows), rows[:3].dtype) == ((20, 16), 20, np.float32)
    error = np.abs(rows[np.arange(20)] - given).max(axis=1)
    assert (error <= np.abs(given).max(axis=1) / 254 * 1.001).all()
    assert (rows[:1] == 0).all()


def test_loss_is_the_mean_over_words() -> None:
    class Layer:
        width = 8
        head_weight = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
        head_bias = np.zeros(3, np.float32)
        train_hidden, train_logits = word_lessons().hidden, word_lessons().logits

    objective = CrossDistillation(4, Layer(), RECIPE, False)
    batch = LessonPool([word_lessons()], [], 8, None, None, False, 0).batch(0, CPU)
    states = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    loss = objective(batch.answers(states), batch.hidden, batch.logits, batch.labels)
    expected = 0.0
    for row, place, taught, label in zip(*batch.picked, batch.logits, batch.labels, strict=True):
        own = objective.task_layer(objective.projection(states[row, place]))
        expected += 0.5 * functional.cross_entropy(own[None], label[None]).item() / 3
        p, q = torch.softmax(taught / 2, -1), torch.softmax(own / 2, -1)
        expected += 1.5 * 4 * (p * (p / q).log()).sum().item() / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)


# ---- whole trials


def tags_of(words: list[str]) -> list[str]:
    """What follows "the" is a thing of two words, "i" a person."""
    found = []
    for place, word in enumerate(words):
        inside = place > 0 and words[place - 1] == "the"
        found.append("B-THING" if word == "the" else "I-THING" if inside else "B-PERSON" if word == "i" else "O")
    return found


@pytest.fixture(scope="module")
def prepared_plan(model: Path, tmp_path_factory: pytest.TempPathFactory, emulator):
    """Asks for the emulator, so that it is set up in the user's cache and not in the test's own."""
    folder = tmp_path_factory.mktemp("data")
    for split, rows in zip(("train", "validation"), sentiment(500, 60, seed=0), strict=True):
        words = [text.split() for text, _ in rows]
        pq.write_table(pa.table({"tokens": words, "tags": [*map(tags_of, words)]}), folder / f"{split}.parquet")
    plan = TrialPlan(
        study="tags",
        task={"data": {"path": str(folder)}, "kind": "token-classification", "metric": "entity_f1", "max_length": 24},
        teacher={"model": str(model), "learning_rate": 3e-3, "epochs": 2},
        device={"tokens": 8, "latency": "estimated", "check_examples": 30},
        limits={},
        fidelity=FidelitySpec(epochs=3, batch_size=16),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOEBOX_CACHE", str(tmp_path_factory.mktemp("cache")))
        torch.set_num_threads(1)
        yield plan, prepare(plan)


@pytest.fixture(scope="module")
def trial(prepared_plan, tmp_path_factory) -> tuple[TrialRecord, Bundle]:
    plan, prepared = prepared_plan
    known = {"state_weight": 1.0, "initialization": "layers", "learning_rate": 4e-3, "hidden_weight": 1.0}
    shape = {"depth": 2, "width": 32, "heads": 2, "ffn_width": 64, "token_keep": 1.0, "unpacking": "run"}
    spec = SpaceSpec(vocabulary_keep=0.8, transformer=shape, recipe={**known, "teacher_learning_rate": 1e-4})
    config, recipe = JointSpace(spec).draw(np.random.default_rng(0))
    record = run_trial(plan, prepared, 0, config, recipe, 0, tmp_path_factory.mktemp("out") / "bundle")
    return record, load_bundle(record.bundle)


@pytest.mark.parametrize("methods", [["random"], ["masked"]])
def test_a_student_learns_from_text_without_tags(prepared_plan, tmp_path: Path, methods: list[str]) -> None:
    plan, _ = prepared_plan
    texts = [text.split() for text, _ in sentiment(40, 10, seed=7)[0]]
    pq.write_table(pa.table({"tokens": texts}), tmp_path / "more.parquet")
    sources = [{"path": str(tmp_path / "more.parquet"), "text": "tokens"}]
    augment = {"count": 30, "methods": methods}
    plan = plan.model_copy(update={"transfer": TransferSpec.model_validate({"sources": sources, "augment": augment})})
    prepared = prepare(plan)
    transfer = prepared.tasks[ONLY].transfer
    assert len(transfer) == len(transfer.texts) == sum(transfer.kinds.values()) > 50
    answers = int(transfer.encoded(prepared.tokenizer(ONLY, 60), 24).words.starts[-1])
    assert (transfer.logits.shape, transfer.hidden.shape) == ((answers, 5), (answers, 32))
    text = transfer.texts[3].split()
    start = int(read_words(transfer.folder).starts[3])
    said = prepared.tasks[ONLY].task.label_names
    tags = [said[tag] for tag in transfer.logits[start : start + len(text)].argmax(1)]
    assert np.mean([one == other for one, other in zip(tags, tags_of(text), strict=True)]) > 0.7
    assert "B-PERSON" in transfer.scores["all"]
    assert set(transfer.scores) == {"all", *transfer.kinds}
    unit = transfer.folder / "hidden_unit.npy"
    kept = unit.read_bytes()
    unit.unlink()
    with pytest.raises(ValueError, match=r"hidden_unit\.npy is missing"):
        open_transfer(transfer.folder)
    np.save(unit, np.ones(3, np.float32))
    with pytest.raises(ValueError, match="3 units"):
        open_transfer(transfer.folder)
    unit.write_bytes(kept)
    shape = {"depth": 1, "width": 32, "heads": 2, "ffn_width": 64, "token_keep": 1.0, "unpacking": "run"}
    recipe = {"transfer_share": 0.4, "state_weight": 1.0, "initialization": "layers", "learning_rate": 4e-3}
    recipe |= {"schedule": "stagewise", "teacher_learning_rate": 0.0, "augmentation": methods[0]}
    config, drawn = JointSpace(SpaceSpec(vocabulary_keep=0.8, transformer=shape, recipe=recipe)).draw(
        np.random.default_rng(0)
    )
    record = run_trial(plan, prepared, 0, config, drawn, 0, tmp_path / "bundle")
    assert record.quality > 0.4


def test_scores_of_words_are_told_by_kind(prepared_plan) -> None:
    task = prepared_plan[1].tasks[ONLY].task
    logits = np.eye(5, dtype=np.float16)[[0, 0, 1, 2, 2, 2]]
    logits[3] = np.nan
    told = describe_scores(logits, ["a", "b", "a"], np.array([2, 1, 3]), task)
    names = task.label_names
    assert told["b"].startswith(f"{names[1]} 100 %")
    assert told["a"].startswith(f"{names[0]} 50 %, {names[2]} 50 %")
    with pytest.raises(InputError, match="no word that the teacher can read"):
        describe_scores(np.full((2, 5), np.nan, np.float16), ["a"], np.array([2]), task)


def test_the_teacher_answers_words(prepared_plan) -> None:
    _, prepared = prepared_plan
    teacher, task = prepared.tasks[ONLY].teacher, prepared.tasks[ONLY].task
    words = len(task.train.labels)
    assert (teacher.train_logits.shape, teacher.train_logits.dtype) == ((words, 5), np.float16)
    assert teacher.train_hidden.shape == (words, 32)
    seen = ~np.isnan(teacher.train_logits[:, 0])
    assert teacher.train_hidden.values.dtype == np.int8
    expected = teacher.train_hidden[seen] @ teacher.head_weight.T + teacher.head_bias
    np.testing.assert_allclose(teacher.train_logits[seen], expected, atol=0.05)
    assert teacher.validation_quality > 0.9


def test_the_file_tags_as_the_torch_student_does(prepared_plan, trial) -> None:
    _, prepared = prepared_plan
    record, bundle = trial
    task = prepared.tasks[ONLY].task
    examples = task.validation
    encoded = encode_examples(wordpiece(bundle.tokens, Normalization(), 24), examples)
    logits = run_model(open_session(bundle.folder / "model.onnx"), encoded)
    rows = np.arange(len(encoded))
    with torch.no_grad():
        states = bundle.student()(**collate(encoded, rows, CPU)).numpy()
    picked = encoded.words.pick(rows)
    np.testing.assert_allclose(logits[picked.words], states[picked.rows, picked.places], atol=0.3)  # accuracy level 4
    assert record.quality == task.quality(examples, logits)
    assert record.quality > 0.5
    on_disk = sum((bundle.folder / name).stat().st_size for name in ("model.onnx", "vocab.txt"))
    assert record.deployed_bytes == on_disk == deployed_bytes(record.config, prepared.shape, prepared.vocabulary)


def test_latency_is_predicted_and_estimated(prepared_plan, trial) -> None:
    plan, prepared = prepared_plan
    measured = measure_latency(plan, prepared, trial[0].config)[0].milliseconds
    assert cost_predictor(plan, prepared)(trial[0].config) == pytest.approx({"latency_ms": measured})


def test_a_bundle_tags_texts_and_words(trial) -> None:
    bundle = trial[1]
    found = bundle.tag(["I admire the film.", ""])
    assert found[0].words == ("I", "admire", "the", "film", ".")
    assert found[0] == bundle.tag(["I admire the film."])[0]
    assert found[1].words == found[1].entities == ()
    assert all(0.2 <= score <= 1 for score in found[0].scores)
    words = bundle.tag_words([["I", "admire", "the", "film."], ["\x00"]])
    assert words[0].words == ("I", "admire", "the", "film.")
    assert (words[1].tags, words[1].scores) == (("O",), (0.0,))
    long = ["the", "film", "."] * 30
    assert len(bundle.tag_words([long])[0].tags) == 90
    assert min(bundle.tag_words([long])[0].scores) > 0  # parts of it are read one after the other
    with pytest.raises(InputError, match=r"tags words: .* Use tag or tag_words"):
        bundle.predict(["a"])
    with pytest.raises(InputError, match="should be text, not 3"):
        bundle.tag_words([["a", 3]])  # type: ignore[list-item]


def test_entities_are_as_written() -> None:
    names = ["O", "B-X", "I-X"]
    tokenizer = wordpiece(SMALL, Normalization(), 8)
    said = np.array([1, 2, 0, 1, 1])

    def run(encoded):
        return np.eye(3, dtype=np.float32)[said[: encoded.answers]] * 9

    found = tag_words([["ab", "c", "d", "e", "f"]], names, 8, lambda texts: encode_words(tokenizer, texts), run)[0]
    assert [(entity.type, entity.text) for entity in found.entities] == [("X", "ab c"), ("X", "e"), ("X", "f")]
    text = "ab-c  d"
    words, spans = split_text(text)
    assert words == ["ab", "-", "c", "d"]
    said = np.array([1, 2, 2, 0])
    found = tag_words(
        [words], names, 16, lambda texts: encode_words(wordpiece(SMALL, Normalization(), 16), texts), run
    )[0]
    assert as_written(found, text, spans).entities[0].text == "ab-c"


def test_texts_are_split_as_the_tokenizer_splits_them() -> None:
    text = "我爱 Beijing，x天y"
    assert split_text(text)[0] == ["我", "爱", "Beijing", "，", "x", "天", "y"]
    assert split_text(text, handle_chinese_chars=False)[0] == ["我爱", "Beijing", "，", "x天y"]
    assert [text[start:end] for start, end in split_text(text)[1]] == split_text(text)[0]
    normalizer = BertNormalizer(clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False)
    for code in [*range(0x2000, 0xD800), *range(0xE000, 0x30000)]:
        word = f"x{chr(code)}y"
        assert (split_text(word)[0] == split_text(word, False)[0]) == (normalizer.normalize_str(word) == word), code


def test_a_long_text_is_read_in_full_parts_without_encoding_its_rest_again() -> None:
    nothing = "\x00"  # of which no piece is left
    text = ["ab", "c"] * 100 + [nothing] * 300 + ["d"] * 3 + [nothing] * 40
    tokenizer, given, lengths = wordpiece(SMALL, Normalization(), 8), [], []

    def read(texts):
        given.extend(map(len, texts))
        return encode_words(tokenizer, texts)

    def run(encoded):
        lengths.extend(encoded.lengths.tolist())
        return np.where(encoded.words.answered[:, None], np.float32([1, 0]), np.float32(np.nan))

    found = tag_words([text], ["O", "B-X"], 8, read, run)[0]
    assert [score > 0 for score in found.scores] == [word != nothing for word in text]
    assert sum(given) < 3 * len(text)  # all that is left, each time, is more than 15 times as many
    expected, start = [], 0
    while start < len(text):  # what is left, each time
        encoded = encode_words(tokenizer, [text[start:]])
        expected.append(int(encoded.lengths[0]))
        answered = np.flatnonzero(encoded.words.answered)
        start += int(answered[-1]) + 1 if len(answered) else len(text)
    parts = iter(lengths)
    assert all(length in parts for length in expected if length > 2)  # in this order, between tries of too few words


def test_the_card_says_what_the_file_answers(trial) -> None:
    card = (trial[1].folder / "README.md").read_text()
    assert "float32 [batch, sequence, 5] (5 tags; the first piece of a word carries its tag)" in card
    assert "entity_f1 (validation split, 60 texts)" in card
    assert json.loads((trial[1].folder / "config.json").read_text())["shape"]["per_token"] is True


def test_arm_kernels_judge_words(prepared_plan, trial, emulator, monkeypatch) -> None:
    plan, prepared = prepared_plan
    monkeypatch.setattr("runners.arm_quality.find_installation", lambda: emulator)  # its cache is not the test's
    task = prepared.tasks[ONLY].task
    found = measure_arm_quality(trial[1].folder, {ONLY: task}, plan.device, trial[0])
    assert found.examples == 30
    assert found.agreement > 0.9
    assert abs(found.quality - found.quality_here) < 0.1
    examples = task.validation.take(np.linspace(0, 59, 30).round().astype(int))
    logits = run_model(trial[1]._session, encode_examples(trial[1]._tokenizer(24), examples))
    assert found.quality_here == task.quality(examples, logits)


def test_lessons_must_fit_their_words(prepared_plan) -> None:
    _, prepared = prepared_plan
    lessons = prepared.course(ONLY, prepared.vocabulary.size(1.0), RECIPE).sources[0]
    assert lessons.encoded.answers == len(lessons.logits) > len(lessons.encoded)
    with pytest.raises(ValueError, match="logits has"):
        Lessons(lessons.encoded, lessons.logits[:-1], lessons.hidden)


def test_places_of_words_are_those_of_their_pieces() -> None:
    words = WordPlaces.of([[None, 0, 0, 1, None], [None, None], [None, 1, 1, None]], [2, 1, 3])
    assert words.first.tolist() == [1, 3, NO_PIECE, NO_PIECE, 1, NO_PIECE]
    assert words.only(np.array([False, True, True, True, True, True])).answered.tolist() == [0, 1, 0, 0, 1, 0]
