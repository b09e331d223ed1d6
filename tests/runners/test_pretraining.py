"""Encoders that are distilled once from an untuned teacher, and students that start from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel

from objectives.limits import Limits
from runners import cache_entry
from runners.batches import Encoded, collate
from runners.distill import Distillation
from runners.grammar import sentiment
from runners.plan import FidelitySpec, TrialPlan
from runners.pretraining import PretrainingSpec
from runners.pretraining import encoder as encoder_module
from runners.pretraining.corpus import prepare_corpus
from runners.pretraining.encoder import Encoder, encoder_config, encoder_key, prepare_encoder, start_from_encoder
from runners.pretraining.similarity import prepare_similarity
from runners.pretraining.spelling import choose_rows
from runners.pretraining.texts import gather_texts
from runners.teacher.model import load_tokenizer
from runners.trial import prepare, run_trial
from runners.wordpiece import encode_texts, wordpiece
from space import InputError
from space.config import Recipe
from space.families import build_student
from space.families.transformer.config import Layer, TransformerConfig
from space.shape import TaskShape
from space.vocabulary import Vocabulary

CPU = torch.device("cpu")
CONFIG = TransformerConfig(
    vocabulary_keep=0.8,
    embedding_width=32,
    embedding_bits=4,
    block_size=32,
    accuracy_level=4,
    width=32,
    heads=2,
    activation="gelu",
    layers=(Layer(ffn_width=48, token_keep=0.5, attention_bits=2, ffn_bits=4),),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOEBOX_CACHE", str(tmp_path_factory.mktemp("cache")))
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="module")
def spec(model: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainingSpec:
    folder = tmp_path_factory.mktemp("text")
    texts = [text for text, _ in sentiment(400, 2, seed=9)[0]]
    (folder / "texts.txt").write_text("\n".join(texts[:360]))
    (folder / "exclude.txt").write_text("\n".join(text.upper() for text in texts[:20]))
    lines = [f"{first}\t{second}" for first, second in zip(texts[360:380], texts[380:400], strict=True)]
    (folder / "pairs.tsv").write_text("\n".join(["a\tb", *lines, f"{texts[0]}\t{texts[399]}"]))
    return PretrainingSpec(
        sources=[{"path": str(folder / "texts.txt")}, {"path": str(folder / "pairs.tsv"), "text": ["a", "b"]}],
        exclude={"path": str(folder / "exclude.txt")},
        recombine=40,
        model=str(model),
        max_length=32,
        epochs=2,
        batch_size=32,
    )


@pytest.fixture(scope="module")
def encoder(cache, spec: PretrainingSpec) -> Encoder:
    return prepare_encoder(spec, "unused", CONFIG)


def test_inputs_longer_than_the_teacher_reads_are_refused(cache, spec: PretrainingSpec) -> None:
    with pytest.raises(InputError, match=r"pretraining\.max_length 64 is more than the 40 tokens"):
        prepare_corpus(spec.model_copy(update={"max_length": 64}), "unused")


def test_texts_are_new_each_and_none_of_them_excluded(cache, spec: PretrainingSpec, model: Path) -> None:
    tokenizer, _ = load_tokenizer(model, "tiny")
    found = gather_texts(spec, tokenizer, model)
    excluded = set(Path(spec.exclude[0].path).read_text().lower().splitlines())
    assert 250 < len(found.single) == len(set(found.single.texts))
    assert found.paired.pairs is not None
    pairs = list(zip(found.paired.texts, found.paired.pairs, strict=True))
    assert len(pairs) == len(set(pairs)) == 20 + 40  # the pair that holds an excluded text is left out
    assert excluded.isdisjoint(found.single.texts)
    assert excluded.isdisjoint(text for pair in pairs for text in pair)
    again = gather_texts(spec, tokenizer, model)
    assert again.single.texts == found.single.texts
    assert again.paired.pairs == found.paired.pairs


def test_sentences_that_follow_each_other_stand_in_for_pairs(cache, spec: PretrainingSpec, model: Path) -> None:
    tokenizer, _ = load_tokenizer(model, "tiny")
    alone = gather_texts(spec.model_copy(update={"sources": spec.sources[:1]}), tokenizer, model)
    assert len(alone.paired) == 40
    known = set(alone.single.texts)
    assert sum(text in known for text in alone.paired.texts) > 25  # the others are edited copies
    everything = spec.model_copy(update={"exclude": spec.sources})
    with pytest.raises(InputError, match="leaves no text to learn from"):
        gather_texts(everything, tokenizer, model)


def test_each_text_is_spelt_as_chosen() -> None:
    long = Encoded(np.arange(9, dtype=np.int32), np.zeros(9, np.uint8), np.array([0, 4, 9]), 0)
    short = Encoded(np.arange(90, 95, dtype=np.int32), np.ones(5, np.uint8), np.array([0, 2, 5]), 0)
    found = choose_rows([long, short], np.array([1, 0]))
    assert found.ids.tolist() == [90, 91, 4, 5, 6, 7, 8]
    assert found.segments is not None
    assert found.segments.tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert found.starts.tolist() == [0, 2, 7]


def test_encoders_are_shared_by_students_of_any_bits_but_of_one_shape(cache, spec: PretrainingSpec) -> None:
    corpus = prepare_corpus(spec, "unused")
    layer = CONFIG.layers[0]
    same = CONFIG.model_copy(
        update={
            "vocabulary_keep": 0.1,
            "vocabulary_score": "frequency",
            "embedding_bits": 2,
            "layers": (layer.model_copy(update={"token_keep": 1.0, "ffn_bits": 8}),),
        }
    )
    keys = [encoder_key(spec, corpus, config) for config in (CONFIG, same)]
    assert keys[0] == keys[1]
    others = [CONFIG.model_copy(update=change) for change in ({"heads": 4}, {"embedding_width": 16}, {"width": 48})]
    others.append(CONFIG.model_copy(update={"layers": (layer.model_copy(update={"ffn_width": 32}),)}))
    recipes = [spec.model_copy(update={"seed": 1}), spec.model_copy(update={"epochs": 3.0})]
    keys += [encoder_key(spec, corpus, config) for config in others]
    keys += [encoder_key(recipe, corpus, CONFIG) for recipe in recipes]
    assert len(set(keys)) == 1 + len(others) + len(recipes)


def test_encoders_are_trained_once(encoder: Encoder, spec: PretrainingSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert encoder.record["loss"][-1] < 0.7 * encoder.record["loss"][0]

    def never(*arguments: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(encoder_module, "Distillation", never)
    again = prepare_encoder(spec, "unused", CONFIG)
    assert all(torch.equal(again.tensors[name], value) for name, value in encoder.tensors.items())


def test_a_stopped_training_goes_on_to_the_same_weights(
    encoder: Encoder, spec: PretrainingSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(encoder_module, "_SAVED_EVERY", 5)
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path))
    save, saves = Distillation.save, []

    def stop(training: Distillation, path: Path) -> None:
        save(training, path)
        saves.append(training.done)
        if len(saves) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Distillation, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_encoder(spec, "unused", CONFIG)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after the last step
        patch.setattr(cache_entry, "_seal", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_encoder(spec, "unused", CONFIG)
    trained = list(saves)
    found = prepare_encoder(spec, "unused", CONFIG)
    assert saves[:3] == [5, 10, 15]
    assert saves == trained
    assert all(torch.equal(found.tensors[name], value) for name, value in encoder.tensors.items())
    assert not list((tmp_path / "pretraining").glob("*.checkpoint"))


def test_the_teacher_is_read_where_the_study_finds_it(
    spec: PretrainingSpec, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where it lay when the text was made: another one lies there by now."""
    here, there = Path(shutil.copytree(model, tmp_path / "here")), tmp_path / "there"
    brief = spec.model_copy(update={"model": None, "epochs": 0.25, "similarity_weight": 1.0})
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    made = prepare_corpus(brief, str(here))
    here.rename(there)
    found = prepare_corpus(brief, str(there))
    assert (found.key, found.model) == (made.key, str(there))
    weights = load_file(there / "model.safetensors")
    here.mkdir()
    for file in there.iterdir():
        shutil.copy(file, here)
    save_file({name: value.flip(0).contiguous() for name, value in weights.items()}, here / "model.safetensors")
    encoder = prepare_encoder(brief, str(there), CONFIG)
    similarity = prepare_similarity(found, 32)
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "fresh"))
    fresh = prepare_encoder(brief, str(there), CONFIG)
    assert all(torch.equal(encoder.tensors[name], value) for name, value in fresh.tensors.items())
    np.testing.assert_array_equal(similarity, prepare_similarity(prepare_corpus(brief, str(there)), 32))


def test_similarity_is_that_of_the_texts_by_themselves(cache, spec: PretrainingSpec, model: Path) -> None:
    tokenizer, _ = load_tokenizer(model, "tiny")
    pairs = gather_texts(spec, tokenizer, model).paired
    assert pairs.pairs is not None
    bert = BertModel.from_pretrained(model).eval()
    states = []
    for text in (text for pair in zip(pairs.texts, pairs.pairs, strict=True) for text in pair):
        with torch.no_grad():
            found = bert(**tokenizer(text, return_tensors="pt", truncation=True, max_length=32))
        states.append(found.last_hidden_state[0].mean(0))
    centred = torch.stack(states) - torch.stack(states).mean(0)
    expected = torch.nn.functional.cosine_similarity(centred[::2], centred[1::2])
    found = prepare_similarity(prepare_corpus(spec, "unused"), 32)
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert np.corrcoef(found, expected)[0, 1] > 0.99


def test_similarity_is_one_more_thing_to_learn(encoder: Encoder, spec: PretrainingSpec) -> None:
    learns = spec.model_copy(update={"similarity_weight": 1.0, "epochs": 0.5})
    found = prepare_encoder(learns, "unused", CONFIG)
    assert found.tensors["head.weight"].shape == (33, 32)
    assert encoder.tensors["head.weight"].shape == (32, 32)
    with pytest.raises(ValueError, match="similarity_weight needs a hidden_weight"):
        PretrainingSpec(**{**spec.model_dump(), "similarity_weight": 1, "hidden_weight": 0})


@pytest.mark.parametrize("segments", [1, 2])
def test_students_start_with_the_states_of_the_encoder(encoder: Encoder, segments: int) -> None:
    """Also where they read single texts, and have no segments."""
    shape = TaskShape(outputs=3, segments=segments, max_length=16)
    config, vocabulary = encoder_config(CONFIG), encoder.vocabulary
    trained = build_student(config, TaskShape(outputs=32, segments=2, max_length=32), len(vocabulary))
    trained.load_state_dict(encoder.tensors)
    student = build_student(config, shape, len(vocabulary))
    before = student.head.weight.clone()
    start_from_encoder(student, encoder, vocabulary, 1.0)
    assert torch.equal(student.head.weight, before)
    texts = [text for text, _ in sentiment(8, 2, seed=3)[0]]
    tokenizer = wordpiece(vocabulary.tokens(len(vocabulary)), vocabulary.normalization, 16)
    batch = collate(encode_texts(tokenizer, texts, texts if segments == 2 else None), np.arange(8), CPU)
    with torch.no_grad():
        found = student.encode(**batch)
        segment_ids = batch.pop("token_type_ids", torch.zeros_like(batch["input_ids"]))
        expected = trained.encode(**batch, token_type_ids=segment_ids)
    torch.testing.assert_close(found, expected, atol=0.02 if segments == 1 else 1e-6, rtol=0)


def test_students_keep_the_rows_of_their_vocabulary(encoder: Encoder) -> None:
    whole = encoder.vocabulary
    score = np.random.default_rng(0).random(len(whole))  # another task keeps other entries
    own = Vocabulary(whole.teacher_tokens, score, score)
    size = own.size(0.8)
    student = build_student(CONFIG, TaskShape(outputs=3, segments=1, max_length=16), size)
    start_from_encoder(student, encoder, own, 0.8)
    rows = dict(zip(whole.tokens(len(whole)), encoder.tensors["word.weight"], strict=True))
    for token, row in zip(own.tokens(size), student.word.weight, strict=True):
        assert torch.equal(row, rows[token])


def test_text_is_counted_in_the_word_pieces_of_the_tasks_teacher(cache, spec: PretrainingSpec) -> None:
    corpus = prepare_corpus(spec, "unused")
    assert corpus.count_of(corpus.vocabulary).sum() > 1000
    with pytest.raises(InputError, match="are not those of the study's teacher"):
        corpus.count_of([*corpus.vocabulary, "new"])


def test_a_trial_starts_from_the_studys_encoder(encoder: Encoder, spec: PretrainingSpec, model, tmp_path) -> None:
    plan = TrialPlan(
        study="pretrained",
        task={"data": {"grammar": "sentiment", "train": 60, "validation": 30}, "max_length": 32},
        teacher={"model": str(model)},
        device={"tokens": 8, "latency": "estimated"},
        limits=Limits(),
        fidelity=FidelitySpec(epochs=1),
        pretraining=spec,
    )
    assert TrialPlan.model_validate_json(plan.model_dump_json()) == plan
    recipe = Recipe(
        learning_rate=1e-12,
        label_weight=0,
        logit_weight=1,
        hidden_weight=1,
        temperature=1,
        teacher_learning_rate=0,
        initialization="pretrained",
    )
    prepared = prepare(plan)
    config = CONFIG.model_copy(update={"vocabulary_keep": 1.0})
    record = run_trial(plan, prepared, 0, config, recipe, 0, tmp_path / "bundle")
    assert set(record.seconds) >= {"pretrain", "train"}
    # The rate is so small that the student still stands where it began.
    found = load_file(str(tmp_path / "bundle" / "student.safetensors"))
    torch.testing.assert_close(found["layers.0.up.weight"], encoder.tensors["layers.0.up.weight"], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="no section pretraining"):
        run_trial(plan.model_copy(update={"pretraining": None}), prepared, 0, config, recipe, 0, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_sections_that_learn_nothing_are_refused(spec: PretrainingSpec) -> None:
    fields = spec.model_dump()
    with pytest.raises(ValueError, match="at least one of hidden_weight"):
        PretrainingSpec(**{**fields, "hidden_weight": 0, "state_weight": 0})
    with pytest.raises(ValueError, match="at least one source of text"):
        PretrainingSpec(**{**fields, "sources": []})


def test_pairs_are_made_of_a_single_text_or_their_section_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the film is a slow and dull one\n")
    tokenizer, _ = load_tokenizer(model, "tiny")
    one = PretrainingSpec(sources=[{"path": str(tmp_path / "text.txt")}], recombine=1, model=str(model), max_length=32)
    made = gather_texts(one, tokenizer, model).paired
    assert len(made) == 1
    assert "the film is a slow and dull one" in (made.texts + made.pairs)
    with pytest.raises(InputError, match=r"pretraining\.recombine asks for 100,000 pairs, but only"):
        gather_texts(one.model_copy(update={"recombine": 100_000}), tokenizer, model)
