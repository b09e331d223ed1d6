"""An encoder distilled from an untuned teacher: trained once for a shape, then the start of every trial that has it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from runners.byte_rows import ByteRows
from runners.cache_entry import make_once
from runners.distill import Course, Distillation, DivergedError
from runners.initialization import start_from_embeddings, start_from_layers
from runners.lessons import Lessons
from runners.plan import FidelitySpec
from runners.precision import training_device
from runners.pretraining.corpus import Corpus, prepare_corpus
from runners.pretraining.similarity import prepare_similarity
from runners.pretraining.spec import PretrainingSpec
from runners.pretraining.spelling import mixed_spellings
from runners.progress import duration
from runners.teacher.model import find_model, load_encoder
from runners.teacher.statistics import bert_layers
from runners.tensors import save_tensors
from space.config import Recipe, StudentConfig
from space.errors import InputError
from space.families import Student, build_student, parse_config
from space.paths import cache
from space.shape import TaskShape
from space.vocabulary import Vocabulary

_log = logging.getLogger("shoebox.runners.pretraining")
_FORMAT = 1  # raise it when cache entries of older code must not be used
_TENSORS, _RECORD = "encoder.safetensors", "encoder.json"
_SAVED_EVERY = 500  # steps
# What a configuration has beside its shape, and what stands for it while the encoder is trained. At 8 bits weights
# are rounded so little that one encoder serves students of any bits.
_BESIDE_SHAPE = {
    "vocabulary_keep": 1.0,
    "vocabulary_score": "attention_sum",
    "token_keep": 1.0,
    "embedding_bits": 8,
    "attention_bits": 8,
    "ffn_bits": 8,
    "block_size": 32,
    "accuracy_level": 0,
    "unpacking": "run",
}


@dataclass(frozen=True, eq=False)
class Encoder:
    """A trained encoder for single texts and pairs, with the whole vocabulary of its teacher.

    Attributes:
        tensors: of the student's module, by name. Its `head` maps pooled states to the teacher's.
        vocabulary: in the order of the rows of its word embeddings.
        record: how it was made: `loss` over tenths of the steps, `steps`, `examples`, `seconds`.
    """

    tensors: dict[str, Tensor]
    vocabulary: Vocabulary
    record: dict[str, Any]


def prepare_encoder(spec: PretrainingSpec, model: str, config: StudentConfig) -> Encoder:
    """The encoder of a configuration's shape: from the cache, or trained now (many minutes).

    Processes that ask for the same encoder at the same time wait for the one that trains it. A training that was
    killed goes on where it was last saved.

    Args:
        spec: of the study.
        model: the study's teacher, for a spec that names none.
        config: whose shape the encoder shall have; bits, vocabulary and token pruning are without meaning.

    Raises:
        InputError: the teacher or a source cannot be read, or training diverged.
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    corpus = prepare_corpus(spec, model)
    vocabulary = Vocabulary(corpus.vocabulary, corpus.vocabulary_count, corpus.vocabulary_count, corpus.normalization)
    folder = cache() / "pretraining" / encoder_key(spec, corpus, config)
    saved = folder.with_suffix(".checkpoint")

    def read() -> Encoder:
        try:
            tensors = load_file(str(folder / _TENSORS))
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        return Encoder(tensors, vocabulary, json.loads((folder / _RECORD).read_text(encoding="utf-8")))

    def fill(part: Path) -> None:
        _train(spec, corpus, vocabulary, encoder_config(config), part, saved)

    found = make_once(folder, read, fill, "pre-trained encoder", _log)
    with contextlib.suppress(OSError):
        saved.unlink()  # only now: who is killed before the entry has its name loses no training
    return found


def start_from_encoder(student: Student, encoder: Encoder, vocabulary: Vocabulary, keep: float) -> None:
    """Everything but the head from a pre-trained encoder of the same shape.

    Args:
        student: to be changed.
        encoder: from `prepare_encoder`.
        vocabulary: of the task, over the same word pieces (`Corpus.count_of`).
        keep: share of it that the student has.
    """
    rows = encoder.vocabulary.rows_of_teacher_ids()
    wanted = vocabulary.teacher_ids(vocabulary.size(keep))
    student.load_encoder(encoder.tensors, torch.from_numpy(rows[wanted]))


def encoder_config(config: StudentConfig) -> StudentConfig:
    """A configuration of the same shape: 8 bits, the whole vocabulary, no token pruned."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: _BESIDE_SHAPE.get(key, plain(inner)) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    found: StudentConfig = parse_config(plain(config.model_dump(mode="json")))
    return found


def encoder_key(spec: PretrainingSpec, corpus: Corpus, config: StudentConfig) -> str:
    """Name of the cache entry: what it depends on, hashed."""
    weights = {"hidden_weight", "state_weight", "relation_weight", "similarity_weight"}
    recipe = {"epochs", "batch_size", "learning_rate", "seed", *weights}
    parts = {
        "format": _FORMAT,
        "corpus": corpus.key,
        "shape": encoder_config(config).model_dump(mode="json"),
        "recipe": spec.model_dump(mode="json", include=recipe),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True, eq=False)
class _Tables:
    """What the start from a teacher needs of it; see `runners.initialization.Tables`."""

    model: str
    word_embeddings: npt.NDArray[np.float32]
    position_embeddings: npt.NDArray[np.float32] | None
    vocabulary_count: npt.NDArray[np.int64]
    median_length: float


@dataclass(frozen=True, eq=False)
class _PooledStates:
    """A task layer that hands the teacher's pooled state on, so that the student's head learns to predict it."""

    width: int
    head_weight: npt.NDArray[np.float32]
    head_bias: npt.NDArray[np.float32]
    train_hidden: npt.NDArray[np.float16] | ByteRows
    train_logits: npt.NDArray[np.float32]


def _train(
    spec: PretrainingSpec, corpus: Corpus, vocabulary: Vocabulary, config: StudentConfig, folder: Path, saved: Path
) -> None:
    begin = time.monotonic()
    device = training_device()
    sources = [
        corpus.lessons(part, mixed_spellings(corpus, part, vocabulary, spec.max_length, spec.seed))
        for part in corpus.parts
    ]
    pooled = sources[0].hidden
    if spec.similarity_weight and "paired" in corpus.parts:
        sources = _with_similarity(spec, corpus, sources)
    count, width = sum(map(len, sources)), sources[0].hidden.shape[1]
    shape = TaskShape(outputs=width, segments=2, max_length=spec.max_length)
    layer = _PooledStates(
        width, np.eye(width, dtype=np.float32), np.zeros(width, np.float32), pooled, np.zeros((1, width), np.float32)
    )
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed(spec.seed)
        student = build_student(config, shape, len(vocabulary))
        _start(student, corpus, vocabulary)
        training = Distillation(
            student,
            [Course(sources, [len(source) / count for source in sources[1:]], layer, regression=True)],
            _recipe(spec),
            FidelitySpec(epochs=spec.epochs, batch_size=spec.batch_size),
            tokens=vocabulary.tokens(len(vocabulary)),
            seed=spec.seed,
            device=device,
        )
    _log.info("Pre-training %s on %d texts, %d steps; once, then cached", config.summary(), count, training.steps)
    if saved.exists():
        try:
            training.restore(saved)
        except InputError as error:
            _log.warning("%s Pre-training starts anew", error)
    try:
        while training.done < training.steps:
            training.run(training.done + _SAVED_EVERY)
            training.save(saved)
            _log.info(
                "Pre-training: step %d of %d, loss %.3f", training.done, training.steps, training.log().losses[-1]
            )
    except DivergedError as error:
        raise InputError(f"Pre-training diverged: {error}.", "Lower pretraining.learning_rate.") from error
    log = training.log()
    save_tensors({name: value.clone() for name, value in student.state_dict().items()}, folder / _TENSORS)
    seconds = round(time.monotonic() - begin, 2)
    record = {"steps": log.steps, "examples": log.examples, "loss": log.losses, "seconds": seconds}
    (folder / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    _log.info("Encoder ready after %s", duration(seconds))


def _with_similarity(spec: PretrainingSpec, corpus: Corpus, sources: Sequence[Lessons]) -> list[Lessons]:
    """The lessons with another column of the pooled states: the similarity of the texts of a pair, 0 for one text.

    Its deviation makes its error weigh what the recipe says in the mean over all columns.
    """
    similarity = prepare_similarity(corpus, spec.max_length)
    sample = np.asarray(sources[0].hidden[:4096], np.float32)
    columns = sample.shape[1] + 1
    deviation = (spec.similarity_weight / spec.hidden_weight * columns * float(sample.var(0).mean())) ** 0.5
    scaled = (similarity - similarity.mean()) / max(float(similarity.std()), 1e-6) * deviation
    found = []
    for part, source in zip(corpus.parts, sources, strict=True):
        column = scaled if part == "paired" else np.zeros(len(source))
        hidden = np.concatenate([source.hidden, column[:, None].astype(np.float16)], 1)
        found.append(replace(source, hidden=hidden, logits=hidden))
    return found


def _start(student: Student, corpus: Corpus, vocabulary: Vocabulary) -> None:
    """From the teacher's embeddings, and from its layers where they are laid out like BERT's."""
    model: Any = load_encoder(find_model(corpus.model), corpus.model).eval()

    def table(module: Any) -> npt.NDArray[np.float32] | None:
        found: npt.NDArray[np.float32] | None = None if module is None else module.weight.detach().numpy()
        return found

    words = table(model.get_input_embeddings())
    assert words is not None
    positions = table(getattr(getattr(model, "embeddings", None), "position_embeddings", None))
    teacher = _Tables(corpus.model, words, positions, corpus.vocabulary_count, corpus.median_length)
    start_from_embeddings(student, teacher, vocabulary, 1.0)
    if bert_layers(model) is not None:
        start_from_layers(student, teacher, model, corpus.statistics(), vocabulary, 1.0)


def _recipe(spec: PretrainingSpec) -> Recipe:
    return Recipe(
        learning_rate=spec.learning_rate,
        label_weight=0,
        logit_weight=0,
        hidden_weight=spec.hidden_weight,
        temperature=1,
        teacher_learning_rate=0,
        state_weight=spec.state_weight,
        relation_weight=spec.relation_weight,
        initialization="layers",
    )
