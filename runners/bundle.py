"""Bundles: a student as a folder that can be shipped and reloaded."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import onnx
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from runners.card import card
from runners.record import TrialRecord
from runners.tensors import save_tensors
from space.config import Recipe
from space.errors import NO_SPACE, DamagedError, InputError, OutputError
from space.families import AnyStudentConfig, Student, export_model
from space.normalization import Normalization
from space.paths import expanded, ordinary_mode
from space.shape import TaskShape
from space.vocabulary import SPECIAL_TOKENS

MODEL, VOCABULARY, CHECKPOINT = "model.onnx", "vocab.txt", "student.safetensors"
_NOT_WRITABLE = NO_SPACE | {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
CONFIG, METRICS, CARD = "config.json", "metrics.json", "README.md"
_SWITCHES = {field.name for field in fields(Normalization)}
LabelNames = tuple[str, ...] | None


class BundleOrigin(BaseModel):
    """Where a student comes from, for its card.

    Attributes:
        data: where each task's text came from, in words, by task; no folder of the machine is named.
        columns: the columns of that data that hold its texts (of words: its tokens), by task.
        teacher_licence: as the teacher's own card names it; None if it does not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: dict[str, str]
    columns: dict[str, tuple[str, ...]]
    teacher_licence: str | None = None


class BundleConfig(BaseModel):
    """Content of `config.json`: all that is needed to run the file or to reload the student.

    Attributes:
        format: version of this layout.
        study: name of the study that made it.
        teacher: id of the teacher.
        label_names: of the classes, or tags, in the order of the logits; None for a regression; of several tasks, by
            task.
        lower_case: whether text is lower-cased before it is split.
        strip_accents, handle_chinese_chars, clean_text: see `Normalization`; the file names them only where they are
            not as in nearly all tokenizers.
        shape: outputs, segments and longest input; of several tasks also those of each.
        student, recipe: configuration and training.
        origin: what text the student learned from, and under which terms; None where older versions made the bundle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    study: str
    teacher: str
    label_names: LabelNames | dict[str, LabelNames]
    lower_case: bool
    strip_accents: bool | None = None
    handle_chinese_chars: bool = True
    clean_text: bool = True
    shape: TaskShape
    student: AnyStudentConfig
    recipe: Recipe
    origin: BundleOrigin | None = None

    @property
    def normalization(self) -> Normalization:
        """What is done to text before it is split."""
        return Normalization(self.lower_case, self.strip_accents, self.handle_chinese_chars, self.clean_text)

    @model_serializer(mode="wrap")
    def _without_ordinary(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        described: dict[str, Any] = handler(self)
        written = self.normalization.record()
        return {name: value for name, value in described.items() if name not in _SWITCHES or name in written}

    def labels_of(self, task: str) -> LabelNames:
        """Names of the classes of a task; the only task goes by any name."""
        return self.label_names[task] if isinstance(self.label_names, dict) else self.label_names


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears under its name only when it is complete.

    Raises:
        InputError: the name is taken.
        OutputError: the folder cannot be written (disk full); nothing is left behind.
    """
    target = expanded(target)
    if target.exists() or target.is_symlink():
        raise InputError(f"Folder {target} exists already.", "Choose a new one, or remove that one.")
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield part
        part.chmod(ordinary_mode(folder=True))
        os.rename(part, target)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        full = error.errno in NO_SPACE
        reason = "the disk is full" if full else error.strerror or error
        raise OutputError(f"Folder {target} cannot be written: {reason}.") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def write_model(folder: Path, student: Student, config: BundleConfig, tokens: list[str]) -> int:
    """Write `model.onnx`, `vocab.txt`, `student.safetensors` and `config.json`; returns the deployed bytes."""
    model = export_model(config.student, config.shape, len(tokens), student)
    (folder / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    (folder / VOCABULARY).write_bytes("".join(f"{token}\n" for token in tokens).encode())
    save_tensors(student.state_dict(), folder / CHECKPOINT)
    described = json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    (folder / CONFIG).write_text(described, encoding="utf-8")
    return deployed_size(folder)


def deployed_size(folder: Path) -> int:
    """Bytes that an app would ship, as they lie on the disk."""
    return (folder / MODEL).stat().st_size + (folder / VOCABULARY).stat().st_size


def write_results(folder: Path, config: BundleConfig, record: TrialRecord) -> None:
    """Write `metrics.json` (the record without the bundle's own place, since bundles are copied) and the card."""
    text = json.dumps(record.model_dump(mode="json", exclude={"bundle"}), indent=2, ensure_ascii=False)
    for name, content in ((METRICS, text + "\n"), (CARD, card(config, record))):
        part = folder / f".{name}.part"
        part.write_text(content, encoding="utf-8")
        os.replace(part, folder / name)


def copy_bundle(source: Path, target: Path) -> None:
    """Copy a bundle into a new folder; all of it or nothing.

    Raises:
        InputError: the target exists or cannot be written, or a file of the source cannot be read.
    """
    with new_folder(target) as folder:
        for file in source.iterdir():
            try:
                shutil.copyfile(file, folder / file.name)
            except PermissionError as error:
                if error.filename != str(file):
                    raise
                raise InputError(f"{file} cannot be read: {error.strerror}.", "Its owner can permit it.") from None


def read_config(folder: Path) -> BundleConfig:
    """The configuration of a bundle.

    Raises:
        DamagedError: files of it are missing, or it cannot be understood.
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"There is no bundle folder {folder}.")
    missing = [name for name in (CONFIG, MODEL, VOCABULARY) if not (folder / name).is_file()]
    if missing:
        raise DamagedError(f"{folder} is no bundle: {', '.join(missing)} missing.", "`shoebox export` writes bundles.")
    try:
        return BundleConfig.model_validate(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise DamagedError(f"{folder / CONFIG} is damaged: {str(error).splitlines()[0]}.") from error


def read_vocabulary(folder: Path) -> list[str]:
    """The tokens of a bundle in the order of their ids.

    Raises:
        DamagedError: the file is no text.
    """
    try:
        return (folder / VOCABULARY).read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise DamagedError(f"{folder / VOCABULARY} is damaged: {error}.") from error


def check_vocabulary(folder: Path, tokens: list[str]) -> None:
    """Refuse a vocabulary that lost entries, as by a copy that was cut off: with what is left, answers would be wrong.

    Raises:
        DamagedError: it has more or fewer entries than the model has embeddings of, or does not begin as it should.
    """
    if tuple(tokens[: len(SPECIAL_TOKENS)]) != tuple(SPECIAL_TOKENS):
        raise DamagedError(f"{folder / VOCABULARY} is damaged: it should begin with {', '.join(SPECIAL_TOKENS)}.")
    tensors = onnx.load(folder / MODEL).graph.initializer
    rows = next((tensor.dims[0] for tensor in tensors if tensor.name == "word.scale"), len(tokens))
    if rows != len(tokens):
        raise DamagedError(f"{folder / VOCABULARY} has {len(tokens):,} entries, but {MODEL} is made for {rows:,}.")
