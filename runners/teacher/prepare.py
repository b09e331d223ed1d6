"""Fine-tune a teacher once per task, and keep what it says."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runners.batches import Encoded, encode
from runners.byte_rows import ByteRows
from runners.cache_entry import make_once, new_array, save_array
from runners.precision import has_fast_bfloat16, training_device
from runners.progress import duration
from runners.task import Task, load_task
from runners.task.matching import without_rows_of
from runners.teacher.finetune import fine_tune
from runners.teacher.infer import infer
from runners.teacher.meta import MetaObjective
from runners.teacher.model import (
    Teacher,
    find_model,
    load_encoder,
    load_tokenizer,
    model_identity,
    normalization_identity,
    restore_teacher,
    save_teacher,
)
from runners.teacher.prototypes import prepare_prototypes
from runners.teacher.spec import TeacherSpec
from runners.teacher.store import TeacherOutputs, open_outputs, write_record
from space.errors import InputError
from space.paths import cache
from space.vocabulary import SPECIAL_TOKENS

_log = logging.getLogger("shoebox.runners.teacher")
_FORMAT = 1  # raise it when cache entries of older code must not be used
_META_FORMAT = 1  # the same of meta-teachers alone


def prepare_teacher(spec: TeacherSpec, task: Task, max_length: int | None = None) -> TeacherOutputs:
    """The teacher's outputs on a task: from the cache, or made now (minutes).

    Processes that ask for the same teacher at the same time wait for the one that makes it.

    Args:
        max_length: longest input in word pieces where the spec names none; default: the task's.

    Raises:
        InputError: the model cannot be loaded, or its training diverged.
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    length = spec.max_length or max_length or task.max_length
    model = find_model(spec.model)
    key = teacher_key(spec, task, length, model)
    folder = cache() / "teachers" / key

    def fill(part: Path) -> None:
        first = _first(spec, task)
        before = None if first is None else prepare_teacher(*first)
        record = _fill(spec, task, length, model, before, part)
        write_record(part, {**record, "key": key})
        made = open_outputs(part, task, spec.model)
        _log.info(
            "Teacher ready after %s: validation %s %.3f", duration(made.seconds), made.metric, made.validation_quality
        )

    return make_once(folder, lambda: open_outputs(folder, task, spec.model), fill, "teacher's outputs", _log)


def _first(spec: TeacherSpec, task: Task) -> tuple[TeacherSpec, Task] | None:
    """What a teacher is fine-tuned on before its task: nothing of what that is judged by."""
    if spec.intermediate is None:
        return None
    # A meta-teacher's intermediate task need have no domains.
    changes = {"intermediate": None, "kind": spec.intermediate.teacher.kind or "finetuned"}
    first = spec.changed(spec.intermediate.teacher).model_copy(update=changes)
    return first, without_rows_of(load_task(spec.intermediate), task.taught_validation, "the task")


def load_teacher(outputs: TeacherOutputs) -> Teacher:
    """The fine-tuned torch model of a cache entry, on the CPU in evaluation mode (for mutual distillation)."""
    return restore_teacher(outputs.folder / "model")


def teacher_key(spec: TeacherSpec, task: Task, max_length: int, model: Path) -> str:
    """Name of the cache entry: what the outputs depend on, hashed. Where the model lies is no part of it.

    Raises:
        InputError: the data of the intermediate task are wrong, or the model's tokenizer is none for students.
    """
    import transformers

    recipe = spec.model_dump(mode="json", exclude={"model", "max_length", "intermediate", "kind"})
    parts: dict[str, Any] = {
        "format": _FORMAT,
        "model": model_identity(model),
        "data": task.fingerprint,
        "regression": task.regression,
        "max_length": max_length,
        "recipe": recipe,
        # A patch release does not change what is computed; the others may.
        "versions": [".".join(module.__version__.split(".")[:2]) for module in (torch, transformers)],
        **normalization_identity(model, spec.model),
    }
    if first := _first(spec, task):
        before, learned = first
        parts["intermediate"] = teacher_key(before, learned, before.max_length or learned.max_length, model)
    if spec.kind != "finetuned":
        parts["kind"] = [spec.kind, _META_FORMAT]
    if _names_special_tokens(task):
        parts["special_tokens"] = "text"  # older entries were made as if these names were the tokens
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _names_special_tokens(task: Task) -> bool:
    splits = (task.train, task.taught_validation)
    texts = itertools.chain.from_iterable((*split.texts, *(split.pairs or ())) for split in splits)
    return any("[" in text and any(token in text for token in SPECIAL_TOKENS) for text in texts)


def _fill(
    spec: TeacherSpec, task: Task, max_length: int, model: Path, before: TeacherOutputs | None, part: Path
) -> dict[str, Any]:
    begin = time.monotonic()
    device = training_device()
    tokenizer, pieces = load_tokenizer(model, spec.model)
    weights = prepare_prototypes(spec.model, task, max_length) if spec.kind == "meta" else None
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(spec.seed)
        encoder = load_encoder(model, spec.model) if before is None else load_teacher(before).encoder
        teacher = Teacher(encoder, task.outputs).to(device)
        check_length(teacher.encoder.config, max_length, spec.model)
        _log.info(
            "Fine-tuning teacher %s on %d examples, %d epoch(s); once per task, then cached",
            spec.model,
            len(task.train),
            spec.epochs,
        )
        train = encode(tokenizer, task.train, max_length)
        validation = encode(tokenizer, task.taught_validation, max_length)
        meta = None
        if weights is not None and task.train.domains is not None:
            meta = MetaObjective(weights, task.train.domains, teacher.width).to(device)
        fine_tune(teacher, train, task.train.labels, task.regression, spec, device, meta)

    arrays: list[np.memmap[Any, Any]] = []

    def array(name: str, shape: tuple[int, ...], dtype: type) -> np.memmap[Any, Any]:
        arrays.append(new_array(part / f"{name}.npy", shape, dtype))
        return arrays[-1]

    answers, hidden_shape = train.answers, (train.answers, teacher.width)
    hidden: npt.NDArray[np.float16] | ByteRows
    if task.per_token:  # a text has many words: half the bytes for each
        logits = array("train_logits", (answers, task.outputs), np.float16)
        unit = array("train_hidden_unit", (answers,), np.float32)
        hidden = ByteRows(array("train_hidden", hidden_shape, np.int8), unit)
    else:
        logits = array("train_logits", (answers, task.outputs), np.float32)
        hidden = array("train_hidden", hidden_shape, np.float16)
    attention = array("vocabulary_attention", (len(pieces.vocabulary),), np.float64)
    infer(teacher, train, device, logits, hidden, attention)
    validation_logits = array("validation_logits", (validation.answers, task.outputs), np.float32)
    infer(teacher, validation, device, validation_logits)
    if not (_finite(logits, train) and _finite(validation_logits, validation)):
        raise InputError("The teacher's fine-tuning diverged.", "Lower teacher.learning_rate.")
    for written in arrays:
        written.flush()
    count = np.bincount(train.ids, minlength=len(pieces.vocabulary)).astype(np.int64)
    save_array(part / "vocabulary_count.npy", count)
    _save_parameters(teacher.cpu(), part)
    return {
        "model": spec.model,
        "vocabulary": pieces.vocabulary,
        **pieces.normalization.record(),
        "special_tokens": pieces.special_tokens,
        "median_length": float(np.median(train.lengths)),
        "long_length": float(np.percentile(train.lengths, 95)),
        "seconds": round(time.monotonic() - begin, 2),
        "made_with": _made_with(device),
    }


def _finite(logits: np.ndarray, encoded: Encoded) -> bool:
    """Whether all logits are finite; of words, all that the teacher saw."""
    return bool(np.isfinite(logits if encoded.words is None else logits[encoded.words.answered]).all())


def check_length(config: Any, max_length: int, model: str, section: str = "", role: str = "teacher") -> None:
    """Refuse inputs that are longer than a model reads.

    Args:
        config: of the model, as `transformers` has it.
        max_length: longest input in word pieces.
        model: its id or folder, for the message.
        section: where the message begins: `pretraining.`, say, where `max_length` stands there.
        role: what the model is.

    Raises:
        InputError: they are.
    """
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(longest, int) and 0 < longest < max_length:
        raise InputError(
            f"{section}max_length {max_length} is more than the {longest} tokens that {role} {model} reads."
        )


def _save_parameters(teacher: Teacher, part: Path) -> None:
    (part / "model").mkdir()
    save_teacher(teacher, part / "model")
    tables: dict[str, Any] = {
        "head_weight": teacher.head.weight,
        "head_bias": teacher.head.bias,
        "word_embeddings": teacher.encoder.get_input_embeddings().weight,  # type: ignore[operator]
    }
    embeddings = getattr(teacher.encoder, "embeddings", None)
    for name, module in (
        ("position_embeddings", "position_embeddings"),
        ("segment_embeddings", "token_type_embeddings"),
    ):
        weight = getattr(getattr(embeddings, module, None), "weight", None)
        if weight is not None:
            tables[name] = weight
    for name, value in tables.items():
        save_array(part / f"{name}.npy", value.detach().float().numpy())


def _made_with(device: torch.device) -> dict[str, str]:
    import transformers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": "bfloat16" if has_fast_bfloat16(device) else "float32",
    }
