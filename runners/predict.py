"""Answers of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file

from runners.bundle import (
    CARD,
    CHECKPOINT,
    MODEL,
    BundleConfig,
    check_vocabulary,
    new_folder,
    read_config,
    read_vocabulary,
    write_model,
)
from runners.card import card
from runners.evaluate import open_session, run_model
from runners.tags import Tagged, as_written, split_text, tag_words
from runners.wordpiece import encode_texts, encode_words, wordpiece
from space.errors import InputError
from space.families import Student, build_student
from space.shape import TaskShape


class Prediction(BaseModel):
    """Answer for one input.

    Attributes:
        label: the most probable class; None for a regression.
        score: its probability; for a regression the predicted value.
        probabilities: of all classes, by name; empty for a regression.
    """

    model_config = ConfigDict(frozen=True)

    label: str | None
    score: float
    probabilities: dict[str, float]


def check_unicode(text: str, place: str) -> None:
    """Refuse half of a surrogate pair, which no tokenizer takes: JSON may escape one, and Python reads arguments so.

    Raises:
        InputError: the text has one (with its place).
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        wrong = f"character {error.start + 1} is U+{ord(error.object[error.start]):04X}"
        raise InputError(
            f"{place} is not valid Unicode: {wrong}.", "It is half of a surrogate pair, or a byte that is not UTF-8."
        ) from None


class Bundle:
    """A loaded bundle; see `load_bundle`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: BundleConfig = read_config(folder)
        self.tokens = read_vocabulary(folder)
        self._tokenizers: dict[int, tokenizers.Tokenizer] = {}
        try:
            self._session = open_session(folder / MODEL)
        except Exception as error:  # onnxruntime raises its own classes, which have no common base
            raise InputError(f"{folder / MODEL} cannot be opened: {str(error).splitlines()[0]}.") from error
        check_vocabulary(folder, self.tokens)

    def predict(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        task: str | None = None,
        batch_size: int | None = None,
    ) -> list[Prediction]:
        """Run `model.onnx` on texts, or on pairs of texts.

        Args:
            texts: the (first) texts.
            pairs: the second texts.
            task: which of several tasks.
            batch_size: texts that are run together, at most; texts of similar length are. Answers keep the order.

        Raises:
            InputError: pairs are missing for a task on pairs, given for one on single texts, or too few; the task is
                missing or unknown, or named where there is only one; a text is not valid Unicode; or the bundle tags
                words (`tag`).
        """
        if self.config.shape.per_token:
            raise InputError(f"{self.folder} tags words: it has no answer for a whole text.", "Use tag or tag_words.")
        shape, columns = self._part(task)
        where = self.folder if task is None else f"Task {task} of {self.folder}"
        if shape.segments == 2 and pairs is None:
            raise InputError(f"{where} judges pairs of texts.", "Give the second text with --pair.")
        if shape.segments == 1 and pairs is not None:
            raise InputError(f"{where} judges single texts.", "Leave the second text out.")
        if pairs is not None and len(pairs) != len(texts):
            raise InputError(f"{len(texts)} first texts, but {len(pairs)} second ones.", "Give one for each.")
        for kind, given in (("Text", texts), ("Second text", pairs or ())):
            for number, text in enumerate(given, 1):
                check_unicode(text, f"{kind} {number}")
        if not texts:
            return []
        encoded = encode_texts(self._tokenizer(shape.max_length), texts, pairs)
        encoded = encoded.for_segments(self.config.shape.segments)
        logits = run_model(self._session, encoded, batch_size)[:, columns]
        names = self.config.labels_of(task or "")
        if names is None:
            return [Prediction(label=None, score=float(row[0]), probabilities={}) for row in logits]
        exponent = np.exp(logits - logits.max(-1, keepdims=True))
        answers = []
        for row in exponent / exponent.sum(-1, keepdims=True):
            best = int(row.argmax())
            probabilities = {name: float(value) for name, value in zip(names, row, strict=True)}
            answers.append(Prediction(label=names[best], score=float(row[best]), probabilities=probabilities))
        return answers

    def _tokenizer(self, max_length: int) -> tokenizers.Tokenizer:
        if max_length not in self._tokenizers:
            self._tokenizers[max_length] = wordpiece(self.tokens, self.config.normalization, max_length)
        return self._tokenizers[max_length]

    def _part(self, task: str | None) -> tuple[TaskShape, slice]:
        tasks = self.config.shape.tasks
        if task is not None and not tasks:
            raise InputError(f"{self.folder} knows one task only.", "Leave the name of the task out.")
        if tasks and task not in tasks:
            missing = "knows several tasks" if task is None else f"knows no task {task!r}"
            raise InputError(f"{self.folder} {missing}.", f"Say which with --task: {', '.join(tasks)}.")
        return self.config.shape.part(task or "")

    def tag(self, texts: Sequence[str], batch_size: int | None = None) -> list[Tagged]:
        """Run `model.onnx` on texts, which are split into words as by `split_text`.

        Raises:
            InputError: the bundle does not tag words, or a text is not valid Unicode.
        """
        for number, text in enumerate(texts, 1):
            check_unicode(text, f"Text {number}")
        chinese = self.config.normalization.handle_chinese_chars
        split = [split_text(text, chinese) for text in texts]
        found = self.tag_words([words for words, _ in split], batch_size)
        return [as_written(*rest) for rest in zip(found, texts, (spans for _, spans in split), strict=True)]

    def tag_words(self, texts: Sequence[Sequence[str]], batch_size: int | None = None) -> list[Tagged]:
        """Run `model.onnx` on texts that are split into words already.

        Raises:
            InputError: the bundle does not tag words, or a word is no text or not valid Unicode.
        """
        names = self.config.labels_of("") if self.config.shape.per_token else None
        if names is None:
            raise InputError(f"{self.folder} judges whole texts: it does not tag words.", "Use predict.")
        for number, text in enumerate(texts, 1):
            for word in text:
                if isinstance(word, str):  # `tag_words` refuses others
                    check_unicode(word, f"A word of text {number}")
        return tag_words(
            texts,
            names,
            self.config.shape.max_length,
            lambda words: encode_words(self._tokenizer(self.config.shape.max_length), words),
            lambda encoded: run_model(self._session, encoded, batch_size),
        )

    def columns(self, task: str | None = None) -> tuple[str, ...]:
        """Names of the columns that hold the texts of a task in the data that the student learned from.

        Where the bundle does not know them: `text`, of pairs `text` and `text2`, of tagged words `tokens`.

        Raises:
            InputError: the task is missing or unknown, or named where there is only one.
        """
        shape, _ = self._part(task)
        origin = self.config.origin
        if origin is not None:
            return origin.columns[task] if task is not None else next(iter(origin.columns.values()))
        return ("tokens",) if shape.per_token else ("text", "text2")[: shape.segments]

    def student(self) -> Student:
        """The torch student with its trained weights, in evaluation mode, to look at or to train further.

        All its parameters take gradients. It computes with weights that are rounded to the bits of the file, passing
        gradients straight through the rounding, and prunes tokens as the file does, so that a loss on its answers is
        one on the file's; `save_student` writes it as a bundle again. Each call makes another student.

            student = load_bundle("sst2-2mb").student().train()
            optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
            loss = torch.nn.functional.cross_entropy(student(input_ids, attention_mask), labels)

        Raises:
            InputError: the checkpoint is missing or damaged.
        """
        student = build_student(self.config.student, self.config.shape, len(self.tokens))
        path = self.folder / CHECKPOINT
        try:
            student.load_weights(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = "it is missing" if not path.exists() else str(error).splitlines()[0]
            raise InputError(f"The checkpoint {path} could not be read: {reason}.") from error
        student.eval()
        return student


def save_student(bundle: Bundle, student: Student, target: Path | str) -> int:
    """Write a student of a bundle that was trained further as a bundle of its own, with the same vocabulary.

    The new bundle has no `metrics.json`, since nothing is known of its quality; the card says so.

    Args:
        bundle: that the student is from.
        student: of the same shape, as `bundle.student()` gives it; it is moved to the CPU.
        target: folder to make.

    Returns:
        The deployed bytes: those of the bundle that it came from.

    Raises:
        InputError: the folder exists, or the student is of another shape.
        OutputError: the folder cannot be written; nothing is left behind.
    """
    with new_folder(Path(target)) as folder:
        student = student.cpu()
        try:
            size = write_model(folder, student, bundle.config, bundle.tokens)
        except ValueError as error:
            raise InputError(f"The student is not one of {bundle.folder}: {error}.") from error
        (folder / CARD).write_text(card(bundle.config, None), encoding="utf-8")
    return size


def load_bundle(path: Path | str) -> Bundle:
    """Open a bundle folder.

    Raises:
        InputError: it is missing, incomplete or damaged.
    """
    return Bundle(Path(path))
