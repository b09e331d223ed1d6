"""Scored transfer text on disk: written once, then memory-mapped by every trial."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tokenizers

from runners.batches import Encoded
from runners.byte_rows import ByteRows
from runners.cache_entry import save_array
from runners.lessons import Lessons, WordStates
from runners.spelling import SpecialIds, Words, spell
from runners.task import Examples
from space.vocabulary import CLS_ID, PAD_ID, SEP_ID

RECORD = "transfer.json"
_TEXTS, _WORDS = "texts.arrow", "words.arrow"
_ARRAYS = ("logits", "hidden", "vocabulary_count")
HIDDEN_UNIT = "hidden_unit.npy"  # of an entry whose words have answers, not its texts
ORIGINS = "origins.npy"  # of an entry with augmented texts
_WORD_ARRAYS = ("places", "starts", "first")


@dataclass(frozen=True, eq=False)
class TransferOutputs:
    """Transfer text and what the teacher says of it. Arrays are memory-mapped, read-only.

    Attributes:
        key: name of the cache entry: a hash of the teacher, the text and the options.
        folder: the cache entry.
        size: how many texts there are, n.
        logits: float32 [n, outputs]; where words are what is labelled, float16 [words, outputs], NaN for those that the
            teacher did not see.
        hidden: float16 [n, teacher width], the mean-pooled last hidden state; of words, `ByteRows` [words, width].
        vocabulary_count: int64 [vocabulary], occurrences of the teacher's word pieces in the transfer text.
        counts: by source, what was read and left out (`runners.transfer.cleaning.Counts`).
        kinds: by source or kind of new pair, how many texts there are.
        scores: what the teacher says of them, in words.
        seconds: wall time of reading, splitting and scoring when the entry was made, by step.
        augmented: by method of augmentation, the first of its texts and the one after the last.
        origins: int64 [n], the row of the train split that each text is a copy of, or `runners.lessons.NO_ORIGIN`;
            None where no text is augmented.
    """

    key: str
    folder: Path
    size: int
    logits: npt.NDArray[Any]
    hidden: npt.NDArray[np.float16] | ByteRows
    vocabulary_count: npt.NDArray[np.int64]
    counts: dict[str, dict[str, int]]
    kinds: dict[str, int]
    scores: dict[str, str]
    seconds: dict[str, float]
    augmented: dict[str, Sequence[int]] = field(default_factory=dict)
    origins: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return self.size

    @property
    def per_token(self) -> bool:
        """Whether words have answers, not texts."""
        return isinstance(self.hidden, ByteRows)

    def rows_of(self, augmentation: str) -> npt.NDArray[np.int64] | None:
        """The texts that a student learns from: those of the sources, and those augmented by a method.

        Args:
            augmentation: a method, `none` of them, or `all`. One that this task has no texts of is as `none`: of
                several tasks, some may have none.

        Returns:
            Rising places, or None for all texts.
        """
        if augmentation == "all" or not self.augmented:
            return None
        kept = np.ones(len(self), bool)
        for method, (start, stop) in self.augmented.items():
            kept[start:stop] = method == augmentation
        return np.flatnonzero(kept)

    @property
    def texts(self) -> list[str]:
        """The (first) texts; read from disk at each call."""
        return self.examples.texts

    @property
    def pairs(self) -> list[str] | None:
        """The second texts, or None; read from disk at each call."""
        return self.examples.pairs

    @property
    def examples(self) -> Examples:
        """The texts as a split whose labels are all 0; read from disk at each call."""
        table = _read_arrow(self.folder / _TEXTS)
        pairs = table.column("pair").to_pylist() if "pair" in table.column_names else None
        return Examples(table.column("text").to_pylist(), pairs, np.zeros(len(self), np.int64))

    def encoded(self, tokenizer: tokenizers.Tokenizer, max_length: int) -> Encoded:
        """The texts in the word pieces of a student's vocabulary.

        Args:
            tokenizer: from `runners.wordpiece.wordpiece`.
            max_length: ids per input, special tokens included.
        """
        special = SpecialIds(CLS_ID, SEP_ID, PAD_ID)
        return spell(read_words(self.folder), tokenizer, special, max_length, self.per_token)

    def lessons(
        self, encoded: Encoded, words: WordStates | None = None, rows: npt.NDArray[np.int64] | None = None
    ) -> Lessons:
        """The texts, as `encoded` gives them, with the teacher's answers and without labels.

        Args:
            encoded: from `encoded`.
            words: the teacher's states of the words of these texts, where they are wanted.
            rows: which of the texts are to be learned from; all by default.
        """
        return Lessons(encoded, self.logits, self.hidden, None, words, chosen=rows, origins=self.origins)


def write_texts(folder: Path, texts: Sequence[str], pairs: Sequence[str] | None) -> None:
    """Write the texts of an entry.

    Raises:
        OSError: the disk is full.
    """
    columns = {"text": texts} if pairs is None else {"text": texts, "pair": pairs}
    _write_arrow(folder / _TEXTS, columns)


def write_words(folder: Path, words: Words) -> None:
    """Write the words of an entry.

    Raises:
        OSError: the disk is full.
    """
    _write_arrow(folder / _WORDS, {"word": words.words})
    for name in _WORD_ARRAYS:
        values = getattr(words, name)
        if values is not None:
            save_array(folder / f"word_{name}.npy", values)


def read_words(folder: Path) -> Words:
    """The words that `write_words` wrote; arrays are memory-mapped."""
    arrays: dict[str, Any] = dict.fromkeys(_WORD_ARRAYS)
    for name in _WORD_ARRAYS:
        path = folder / f"word_{name}.npy"
        if path.exists():
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
    return Words(_read_arrow(folder / _WORDS).column("word").to_pylist(), **arrays)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write everything of `TransferOutputs` that is neither an array nor a text."""
    (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")


def open_transfer(folder: Path) -> TransferOutputs:
    """Map a cache entry.

    Raises:
        OSError, ValueError, TypeError: the entry is not complete.
    """
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    arrays: dict[str, Any] = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS
    }
    if (folder / ORIGINS).is_file():
        arrays["origins"] = np.load(folder / ORIGINS, mmap_mode="r", allow_pickle=False)
    size = _read_arrow(folder / _TEXTS).num_rows
    for needed in (_WORDS, "word_places.npy", "word_starts.npy"):
        if not (folder / needed).is_file():
            raise ValueError(f"{needed} is missing")
    answers = size
    if (folder / HIDDEN_UNIT).is_file():
        answers = int(np.load(folder / "word_starts.npy", mmap_mode="r", allow_pickle=False)[-1])
        unit = np.load(folder / HIDDEN_UNIT, mmap_mode="r", allow_pickle=False)
        if len(unit) != answers:
            raise ValueError(f"{answers} answers, {len(unit)} units of hidden states")
        arrays["hidden"] = ByteRows(arrays["hidden"], unit)
    elif arrays["hidden"].dtype == np.int8:
        raise ValueError(f"{HIDDEN_UNIT} is missing")
    if not answers == len(arrays["logits"]) == len(arrays["hidden"]):
        raise ValueError(f"{answers} answers, {len(arrays['logits'])} logits, {len(arrays['hidden'])} hidden states")
    return TransferOutputs(folder=folder, size=size, **record, **arrays)


def _write_arrow(path: Path, columns: dict[str, Sequence[str]]) -> None:
    table = pa.table({name: pa.array(values, pa.large_string()) for name, values in columns.items()})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _read_arrow(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()
