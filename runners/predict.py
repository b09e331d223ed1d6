"""Answers of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file

from runners.bundle import CHECKPOINT, MODEL, BundleConfig, read_config, read_vocabulary
from runners.evaluate import open_session, run_model
from runners.wordpiece import encode_texts, wordpiece
from space.errors import InputError
from space.families import Student, build_student


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


class Bundle:
    """A loaded bundle; see `load_bundle`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: BundleConfig = read_config(folder)
        self.tokens = read_vocabulary(folder)
        self._tokenizer = wordpiece(self.tokens, self.config.lower_case, self.config.shape.max_length)
        try:
            self._session = open_session(folder / MODEL)
        except Exception as error:  # onnxruntime raises its own classes, which have no common base
            raise InputError(f"{folder / MODEL} cannot be opened: {str(error).splitlines()[0]}.") from error

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        """Run `model.onnx` on texts, or on pairs of texts.

        Raises:
            InputError: pairs are missing for a task on pairs, given for one on single texts, or too few.
        """
        if self.config.shape.segments == 2 and pairs is None:
            raise InputError(f"{self.folder} judges pairs of texts.", "Give the second text with --pair.")
        if self.config.shape.segments == 1 and pairs is not None:
            raise InputError(f"{self.folder} judges single texts.", "Leave the second text out.")
        if pairs is not None and len(pairs) != len(texts):
            raise InputError(f"{len(texts)} first texts, but {len(pairs)} second ones.", "Give one for each.")
        if not texts:
            return []
        logits = run_model(self._session, encode_texts(self._tokenizer, texts, pairs))
        names = self.config.label_names
        if names is None:
            return [Prediction(label=None, score=float(row[0]), probabilities={}) for row in logits]
        exponent = np.exp(logits - logits.max(-1, keepdims=True))
        answers = []
        for row in exponent / exponent.sum(-1, keepdims=True):
            best = int(row.argmax())
            probabilities = {name: float(value) for name, value in zip(names, row, strict=True)}
            answers.append(Prediction(label=names[best], score=float(row[best]), probabilities=probabilities))
        return answers

    def student(self) -> Student:
        """The torch student with its trained weights, in evaluation mode."""
        student = build_student(self.config.student, self.config.shape, len(self.tokens))
        student.use_clipping(self.config.recipe.clipping)
        student.load_state_dict(load_file(self.folder / CHECKPOINT))
        student.eval()
        return student


def load_bundle(path: Path | str) -> Bundle:
    """Open a bundle folder.

    Raises:
        InputError: it is missing, incomplete or damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"There is no bundle folder {folder}.")
    return Bundle(folder)
