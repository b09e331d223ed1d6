"""Pre-training text with an untuned teacher's hidden states: made once, then memory-mapped."""

from __future__ import annotations

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
import tokenizers
import torch

from runners.batches import Encoded, encode
from runners.cache_entry import make_once, new_array, save_array
from runners.lessons import Lessons
from runners.precision import training_device
from runners.pretraining.spec import PretrainingSpec
from runners.pretraining.texts import EXCLUDE, SOURCES, gather_texts
from runners.progress import duration
from runners.spelling import SpecialIds, spell, split_words, text_tokenizer
from runners.task import Examples
from runners.task.matching import MATCH_FORMAT
from runners.teacher.model import (
    Teacher,
    find_model,
    load_encoder,
    load_tokenizer,
    model_identity,
    normalization_identity,
)
from runners.teacher.prepare import check_length
from runners.teacher.statistics import (
    LayerStatistics,
    layer_statistics,
    read_statistics,
    write_statistics,
)
from runners.teacher.words import WordBasis, read_word_states, word_basis, write_word_states
from runners.transfer.read import count_rows, identity
from runners.transfer.store import read_words, write_words
from space.errors import InputError
from space.normalization import Normalization
from space.paths import cache
from space.vocabulary import CLS_ID, PAD_ID, SEP_ID

_log = logging.getLogger("shoebox.runners.pretraining")
_FORMAT = 1  # raise it when cache entries of older code must not be used
_RECORD = "corpus.json"
_PARTS = ("single", "paired")
_SAMPLE = 1024  # texts, at most, that statistics are made from


@dataclass(frozen=True, eq=False)
class Corpus:
    """Text and what an untuned teacher makes of it. Arrays are memory-mapped, read-only.

    Attributes:
        key: name of the cache entry: a hash of the teacher, the text and the options.
        folder: the cache entry.
        model: the teacher's id or path as the study names it now; the entry may have been made of another folder with
            the same model.
        parts: those of `single` and `paired` texts that are not empty.
        vocabulary: the teacher's word pieces in id order.
        normalization: of text before it is split.
        vocabulary_count: int64 [vocabulary], occurrences in the text.
        median_length: of the texts in word pieces.
        width: of the teacher.
        seconds: wall time when the entry was made.
    """

    key: str
    folder: Path
    model: str
    parts: tuple[str, ...]
    vocabulary: list[str]
    normalization: Normalization
    vocabulary_count: npt.NDArray[np.int64]
    median_length: float
    width: int
    seconds: float

    def statistics(self) -> LayerStatistics:
        """Of the teacher on a sample of the text."""
        return read_statistics(self.folder)

    def count_of(self, vocabulary: Sequence[str]) -> npt.NDArray[np.int64]:
        """Occurrences of the word pieces of a task's teacher, int64 [vocabulary].

        Raises:
            InputError: that teacher has other word pieces, so that its students cannot start from encoders of this
                corpus.
        """
        if list(vocabulary) != self.vocabulary:
            raise InputError(
                f"The word pieces of pretraining.model {self.model} are not those of the study's teacher.",
                "Name a model with the same vocabulary.",
            )
        return self.vocabulary_count

    def encoded(self, part: str, tokenizer: tokenizers.Tokenizer, max_length: int) -> Encoded:
        """The texts of a part in word pieces of a student; single texts have segments too, all 0."""
        found = spell(read_words(self.folder / part), tokenizer, SpecialIds(CLS_ID, SEP_ID, PAD_ID), max_length)
        return found if found.segments is not None else replace(found, segments=np.zeros(len(found.ids), np.uint8))

    def lessons(self, part: str, encoded: Encoded) -> Lessons:
        """The texts of a part, as `encoded` gives them; the teacher's pooled states stand in for logits."""
        hidden = np.load(self.folder / part / "hidden.npy", mmap_mode="r", allow_pickle=False)
        return Lessons(encoded, hidden, hidden, None, read_word_states(self.folder / part))


def prepare_corpus(spec: PretrainingSpec, model: str) -> Corpus:
    """Text with the teacher's states of words: from the cache, or made now (minutes).

    Args:
        spec: of the study.
        model: the study's teacher, for a spec that names none.

    Raises:
        InputError: the model or a source cannot be read, a source leaves no text, or more pairs are asked for than
            can be made.
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    name = spec.model or model
    source = find_model(name)
    key = corpus_key(spec, source)
    folder = _folder(key)
    return make_once(
        folder,
        lambda: _open(folder, name),
        lambda part: _fill(spec, name, source, key, part),
        "pre-training text",
        _log,
    )


def check_corpus(spec: PretrainingSpec, model: Path) -> int | None:
    """Read the sources of pre-training text, so that what is wrong with them is said before a teacher is fine-tuned.

    Args:
        spec: of the study.
        model: folder of the teacher that reads the text.

    Returns:
        How many rows the sources hold, those that are excluded aside; None where the text is in the cache, so that
        they are not asked.

    Raises:
        InputError: a source cannot be read.
    """
    return None if _folder(corpus_key(spec, model)).is_dir() else check_sources(spec)


def check_sources(spec: PretrainingSpec) -> int:
    """Read the sources of pre-training text, wherever its teacher is.

    Returns:
        How many rows they hold, those that are excluded aside.

    Raises:
        InputError: a source cannot be read.
    """
    count_rows(spec.exclude, EXCLUDE)
    return count_rows(spec.sources, SOURCES)


def _folder(key: str) -> Path:
    return cache() / "pretraining" / key


def corpus_key(spec: PretrainingSpec, model: Path) -> str:
    """Name of the cache entry: what it depends on, hashed. Where files lie is no part of it.

    Raises:
        InputError: the file of a source is missing; the teacher's tokenizer is none for students.
    """
    fields = {"text", "sentences", "limit"}
    parts: dict[str, Any] = {
        "format": _FORMAT,
        "matching": MATCH_FORMAT,
        "model": model_identity(model),
        "sources": [[identity(s), s.model_dump(mode="json", include=fields)] for s in spec.sources],
        "exclude": [[identity(s), s.model_dump(mode="json", include={"text"})] for s in spec.exclude],
        "recombine": spec.recombine,
        "max_length": spec.max_length,
        "seed": spec.seed,
        **normalization_identity(model, spec.model or str(model)),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _fill(spec: PretrainingSpec, name: str, model: Path, key: str, folder: Path) -> None:
    begin = time.monotonic()
    tokenizer, pieces = load_tokenizer(model, name)
    texts = gather_texts(spec, tokenizer, model)
    device = training_device()
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):  # of the head, which is not used
        teacher = Teacher(load_encoder(model, name), 1)
    check_length(teacher.encoder.config, spec.max_length, name, "pretraining.")
    count = np.zeros(len(pieces.vocabulary), np.int64)
    lengths = []
    basis = _add_statistics(folder, teacher, tokenizer, texts.single if len(texts.single) else texts.paired, spec)
    parts = [part for part in _PARTS if len(getattr(texts, part))]
    for part in parts:
        examples: Examples = getattr(texts, part)
        _log.info("Teacher %s reads %d %s texts; once, then cached", name, len(examples), part)
        (folder / part).mkdir()
        words = split_words(text_tokenizer(tokenizer), examples.texts, examples.pairs)
        write_words(folder / part, words)
        special = SpecialIds(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id or 0)
        encoded = spell(words, text_tokenizer(tokenizer), special, spec.max_length)
        hidden = new_array(folder / part / "hidden.npy", (len(encoded), teacher.width), np.float16)
        write_word_states(folder / part, teacher, encoded, pieces.vocabulary, basis, hidden)
        hidden.flush()
        count += np.bincount(encoded.ids, minlength=len(count))
        lengths.append(encoded.lengths)
    save_array(folder / "vocabulary_count.npy", count)
    seconds = round(time.monotonic() - begin, 2)
    record = {
        "key": key,
        "model": name,
        "parts": parts,
        "vocabulary": pieces.vocabulary,
        **pieces.normalization.record(),
        "median_length": float(np.median(np.concatenate(lengths))),
        "width": teacher.width,
        "seconds": seconds,
    }
    (folder / _RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    _log.info("Pre-training text ready after %s: %d texts", duration(seconds), sum(map(len, lengths)))


def _add_statistics(
    folder: Path, teacher: Teacher, tokenizer: Any, examples: Examples, spec: PretrainingSpec
) -> WordBasis:
    rows = np.linspace(0, len(examples) - 1, min(len(examples), _SAMPLE)).astype(np.int64)
    found = layer_statistics(teacher, encode(tokenizer, examples.take(rows), spec.max_length))
    write_statistics(folder, found)
    return word_basis(found)


def _open(folder: Path, name: str) -> Corpus:
    record: dict[str, Any] = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    record["model"] = name  # where it lay when the entry was made, nothing or another model may lie by now
    count = np.load(folder / "vocabulary_count.npy", mmap_mode="r", allow_pickle=False)
    for part in record["parts"]:
        read_word_states(folder / part)
    record["normalization"] = Normalization.pop(record)
    return Corpus(folder=folder, vocabulary_count=count, **{**record, "parts": tuple(record["parts"])})
