"""Read transfer text and let the teacher score it, once."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from runners.byte_rows import ByteRows
from runners.cache_entry import make_once, new_array, save_array
from runners.precision import training_device
from runners.progress import duration
from runners.spelling import SpecialIds, Words, spell, split_words, text_tokenizer
from runners.task import Task
from runners.task.matching import MATCH_FORMAT
from runners.teacher import TeacherOutputs, load_teacher
from runners.teacher.infer import infer
from runners.teacher.model import find_model, load_tokenizer, model_identity
from runners.teacher.prepare import teacher_key
from runners.teacher.spec import TeacherSpec
from runners.transfer.gather import Gathered, gather
from runners.transfer.read import count_rows, identity
from runners.transfer.scores import describe_scores
from runners.transfer.spec import TransferSpec
from runners.transfer.store import (
    HIDDEN_UNIT,
    ORIGINS,
    TransferOutputs,
    open_transfer,
    write_record,
    write_texts,
    write_words,
)
from space.errors import InputError
from space.paths import cache

_log = logging.getLogger("shoebox.runners.transfer")
_FORMAT = 1  # raise it when cache entries of older code must not be used
_TARGET_FORMAT = 2  # likewise, of entries of students for one domain alone
_AUGMENT_FORMAT = 2  # and of entries with augmented text alone


def prepare_transfer(
    spec: TransferSpec, task: Task, teacher: TeacherOutputs, max_length: int | None = None
) -> TransferOutputs:
    """Transfer text with the teacher's answers: from the cache, or made now (minutes).

    Processes that ask for the same text at the same time wait for the one that scores it.

    Args:
        spec: of the study.
        task: that the teacher was fine-tuned on.
        teacher: the fine-tuned teacher's cache entry.
        max_length: longest input of the teacher in word pieces; default: the task's.

    Raises:
        InputError: the section does not fit the task, a source cannot be read or leaves no text, or more pairs are
            asked for than can be made.
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    if problem := spec.misfit(task.segments, task.per_token):
        raise InputError(f"{problem[0].upper()}{problem[1:]}.")
    length = max_length or task.max_length
    key = transfer_key(spec, task, teacher.key, length)
    folder = cache() / "transfer" / key

    def fill(part: Path) -> None:
        _fill(spec, task, teacher, length, part, key)

    return make_once(folder, lambda: open_transfer(folder), fill, "transfer text", _log)


def check_transfer(spec: TransferSpec, task: Task, teacher: TeacherSpec, model: Path) -> int | None:
    """Read the sources of transfer text, so that what is wrong with them is said before a teacher is fine-tuned.

    Args:
        spec: of the study.
        task: that the teacher is for.
        teacher: fine-tuned or not yet.
        model: folder of the teacher's model.

    Returns:
        How many rows the sources hold; None where the text is in the cache, so that they are not asked.

    Raises:
        InputError: a source cannot be read; the data of the teacher's intermediate task are wrong.
    """
    length = teacher.max_length or task.max_length
    key = transfer_key(spec, task, teacher_key(teacher, task, length, model), length)
    return None if (cache() / "transfer" / key).is_dir() else count_rows(spec.sources)


def transfer_key(spec: TransferSpec, task: Task, teacher: str, max_length: int) -> str:
    """Name of the cache entry: what it depends on, hashed. Where files lie is no part of it.

    Args:
        spec: of the study.
        task: that the teacher was fine-tuned on.
        teacher: name of the teacher's cache entry.
        max_length: longest input of the teacher in word pieces.

    Raises:
        InputError: the file of a source is missing.
    """
    sources = [
        [identity(source), source.model_dump(mode="json", include={"text", "sentences", "limit"})]
        for source in spec.sources
    ]
    parts: dict[str, Any] = {
        "format": _FORMAT,
        "teacher": teacher,
        "sources": sources,
        "recombine": spec.recombine,
        "augment": _augment_identity(spec),
        "seed": spec.seed,
        "max_length": [max_length, task.max_length],
    }
    if task.target is not None:
        # Whose rows are copied, and kept out of what is found; the teacher has one key for all domains.
        parts["target"] = [_TARGET_FORMAT, task.target.domain]
    if spec.augment is not None and "learned" in spec.augment.methods:
        parts["metric"] = task.metric  # what the selector of texts is rewarded by
    if sources or not _is_ascii(task):  # of ASCII text alone all entries are of use
        parts["matching"] = MATCH_FORMAT
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _is_ascii(task: Task) -> bool:
    """Whether all texts are ASCII that made and found texts are compared with."""
    splits = (task.train, task.taught_validation)
    return all(text.isascii() for split in splits for text in (*split.texts, *(split.pairs or ())))


def _augment_identity(spec: TransferSpec) -> Any:
    """What changes the texts that section `augment` makes; 0 where there is none, as in entries of before."""
    augment = spec.augment
    if augment is None:
        return 0
    unused = {"masked_model"} if "learned" in augment.methods else {"masked_model", "candidates", "episodes"}
    found = {"format": _AUGMENT_FORMAT, **augment.model_dump(mode="json", exclude=unused)}
    if augment.masked_model is not None:
        found["masked_model"] = model_identity(find_model(augment.masked_model))
    return found


def _fill(spec: TransferSpec, task: Task, teacher: TeacherOutputs, max_length: int, part: Path, key: str) -> None:
    clock = [time.monotonic()]
    model = find_model(teacher.model)
    tokenizer, _ = load_tokenizer(model, teacher.model)
    gathered = gather(spec, task, teacher, tokenizer, model, max_length)
    write_texts(part, gathered.texts, gathered.pairs)
    if gathered.augmented:
        save_array(part / ORIGINS, np.array(gathered.origins, np.int64))
    clock.append(time.monotonic())
    _log.info("Teacher scores %d texts; once, then cached", len(gathered.texts))
    words = _score(gathered, task, teacher, tokenizer, max_length, part)
    clock.append(time.monotonic())
    logits = np.load(part / "logits.npy", mmap_mode="r", allow_pickle=False)
    counts = np.diff(words.starts) if task.per_token else np.ones(len(gathered.texts), np.int64)
    scores = describe_scores(logits, gathered.kinds, counts, task)
    seconds = {"gather": round(clock[1] - clock[0], 2), "score": round(clock[2] - clock[1], 2)}
    record = {
        "key": key,
        "counts": gathered.counts,
        "kinds": dict(Counter(gathered.kinds)),
        "scores": scores,
        "seconds": seconds,
        "augmented": gathered.augmented,
    }
    write_record(part, record)
    _log.info(
        "Transfer text ready after %s: %d texts, the teacher says %s",
        duration(sum(seconds.values())),
        len(gathered.texts),
        "; ".join(f"{kind}: {said}" for kind, said in scores.items()),
    )


def _score(
    gathered: Gathered, task: Task, teacher: TeacherOutputs, tokenizer: Any, max_length: int, part: Path
) -> Words:
    """Write words, logits, hidden states and counts of word pieces to the entry; returns the words."""
    device = training_device()
    pieces = text_tokenizer(tokenizer)
    words = split_words(pieces, gathered.texts, gathered.pairs)
    write_words(part, words)
    special = SpecialIds(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id or 0)
    encoded = spell(words, pieces, special, max_length, task.per_token)
    shape = (encoded.answers, teacher.width)
    # A text has many words: half the bytes for each, as of the train split.
    logits = new_array(part / "logits.npy", (shape[0], task.outputs), np.float16 if task.per_token else np.float32)
    arrays = [logits, new_array(part / "hidden.npy", shape, np.int8 if task.per_token else np.float16)]
    hidden: Any = arrays[-1]
    if task.per_token:
        arrays.append(new_array(part / HIDDEN_UNIT, shape[:1], np.float32))
        hidden = ByteRows(*arrays[1:])
    infer(load_teacher(teacher).to(device), encoded, device, logits, hidden, what="Teacher scores transfer text")
    for array in arrays:
        array.flush()
    count = np.bincount(encoded.ids, minlength=len(teacher.vocabulary)).astype(np.int64)
    save_array(part / "vocabulary_count.npy", count)
    return words
