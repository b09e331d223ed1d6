"""Make augmented text: candidates by a masked language model, and those of them that a selector keeps."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runners.augmentation.features import selector_features
from runners.augmentation.masked_model import MaskedModel, named_model, tuned_model
from runners.augmentation.resample import Resampler
from runners.augmentation.selector import SelectorSettings, choose, train_selector
from runners.augmentation.student import FEWEST, RewardingStudent
from runners.batches import encode
from runners.precision import training_device
from runners.task import Examples, Task
from runners.task.matching import match_key
from runners.teacher import TeacherOutputs, load_teacher
from runners.teacher.infer import infer
from runners.transfer.augment import Copies
from runners.transfer.cleaning import Sieve, even_sample
from runners.transfer.pairs import pair_key
from runners.transfer.spec import AugmentSpec
from space.errors import InputError

_log = logging.getLogger("shoebox.runners.augmentation")
FROM_SOURCES = 0.5  # share of the candidates that is made of texts of the sources, where there are any
_TUNING_TEXTS = 20_000  # that a masked model is tuned on, at most
_ROUNDS = 12  # of drawing, before it is found that there are no more


@dataclass(frozen=True, eq=False)
class Candidates:
    """New texts.

    Attributes:
        examples: their labels are all 0.
        origins: int64 [n], the text that each was made of; those of the train split come first.
    """

    examples: Examples
    origins: npt.NDArray[np.int64]

    def copies(self, rows: npt.NDArray[np.int64]) -> Copies:
        """Some of them."""
        found = self.examples.take(rows)
        return Copies(found.texts, found.pairs, self.origins[rows].tolist())


class Augmenter:
    """Makes texts of the train split, and of the sources, anew; deterministic.

    Half of the candidates are of the sources where the study has any (the paper's rich source domain): the teacher
    answers them all, so that they need no labels.

    Args:
        spec: how.
        task: what students learn from of its train split; the validation split is kept out by the sieve.
        sources: texts, or pairs, of the study's transfer sources.
        model: folder of the pretrained teacher, which is tuned where no masked model is named.
        max_length: longest input in word pieces.
        seed: of all choices.
    """

    def __init__(
        self, spec: AugmentSpec, task: Task, sources: Examples | None, model: Path, max_length: int, seed: int
    ) -> None:
        self._spec, self._task, self._seed, self._length = spec, task, seed, max_length
        train = task.learned_train
        self._own = len(train)
        self._texts = train if sources is None else _joined(train, sources)
        self._model = model
        self._resampler: Resampler | None = None

    def masked(self, sieve: Sieve) -> Copies:
        """So many candidates as they come."""
        found = self._draw(self._spec.count, self._spec.count, sieve, 31)
        return found.copies(np.arange(self._spec.count))

    def learned(self, sieve: Sieve, tokenizer: Any, teacher: TeacherOutputs) -> Copies:
        """The candidates that a selector gives the highest probability of being kept, in the order they came.

        The paper keeps by drawing; here the highest of each of the teacher's answers are taken
        (`runners.augmentation.selector.choose`), so that there are as many as the study asks for. In training, the
        selector decides on no candidate that was made of a text held out: near copies of the very texts that reward it
        would look good whatever they teach.

        Args:
            sieve: knows both splits; takes the candidates.
            tokenizer: of the teacher.
            teacher: fine-tuned.

        Raises:
            InputError: too few train texts, or too few different candidates.
        """
        spec = self._spec
        if self._own < 2 * FEWEST:
            raise InputError(
                f"transfer.augment.methods names learned, but students learn from {self._own} texts of the train "
                f"split: the selector holds {FEWEST} of them out, and needs at least {2 * FEWEST}.",
                "Leave learned out.",
            )
        found = self._draw(spec.count * spec.candidates, spec.count, sieve, 37)
        examples = found.examples
        logits = np.zeros((len(examples), self._task.outputs), np.float32)
        hidden = np.zeros((len(examples), teacher.width), np.float16)
        device = training_device()
        encoded = encode(tokenizer, examples, self._length)
        infer(load_teacher(teacher).to(device), encoded, device, logits, hidden, what="Teacher scores candidates")
        student = RewardingStudent(self._task, teacher, examples, logits, hidden, self._length, self._seed)
        own = np.asarray(teacher.train_hidden)[student.rows]
        features = selector_features(hidden, logits, student.losses(), own, self._task.regression)
        held = np.append(student.held_out, np.zeros(len(self._texts) - self._own, bool))
        allowed = np.flatnonzero(~held[found.origins])
        settings = SelectorSettings(episodes=spec.episodes)
        kept, rewards = train_selector(features, student.reward, allowed, settings, self._seed)
        tenth = max(1, len(rewards) // 10)
        _log.info(
            "Selector of augmented text: reward %.4f in its first episodes, %.4f in its last; keeps %.2f of candidates",
            float(np.mean(rewards[:tenth])),
            float(np.mean(rewards[-tenth:])),
            float(kept.mean()),
        )
        return found.copies(choose(kept, _answers(logits, self._task.regression), spec.count))

    def _draw(self, wanted: int, fewest: int, sieve: Sieve, purpose: int) -> Candidates:
        """`wanted` candidates that the sieve does not know, or as many as there are, `fewest` at least."""
        generator = np.random.default_rng([self._seed, purpose])
        if self._resampler is None:
            self._resampler = Resampler(self._masked_model(), self._length)
        texts: list[str] = []
        pairs: list[str] = []
        origins: list[int] = []
        for _ in range(_ROUNDS):
            if len(texts) == wanted:
                break
            rows = self._rows(wanted - len(texts), generator)
            copies = self._resampler(self._texts, rows, generator)
            for place, row in enumerate(rows):
                first, second = copies.texts[place], None if copies.pairs is None else copies.pairs[place]
                key: object = match_key(first) if second is None else pair_key(first, second)
                if not first.strip() or second == "" or not sieve.admits(key):
                    continue
                texts.append(first)
                pairs.append(second or "")
                origins.append(int(row))
        if len(texts) < fewest:
            raise InputError(
                f"transfer.augment asks for {fewest:,} copies, but only {len(texts):,} different ones could be drawn "
                f"from {len(self._texts):,} texts.",
                "Lower it.",
            )
        labels = np.zeros(len(texts), np.int64)
        return Candidates(Examples(texts, pairs if self._texts.pairs is not None else None, labels), np.array(origins))

    def _rows(self, count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """So many texts to make candidates of: each as often as the others of its kind, up to one."""
        others = len(self._texts) - self._own
        foreign = round(FROM_SOURCES * count) if others else 0
        found = [_in_turn(self._own, count - foreign, generator)]
        if foreign:
            found.append(self._own + _in_turn(others, foreign, generator))
        return np.concatenate(found)

    def _masked_model(self) -> MaskedModel:
        if self._spec.masked_model is not None:
            return named_model(self._spec.masked_model, self._length)
        rows = even_sample(len(self._texts), _TUNING_TEXTS, np.random.default_rng([self._seed, 41]))
        _log.info("Tuning a masked language model on %d texts", len(rows))
        return tuned_model(self._model, _unlabelled(self._texts, rows), self._length, self._seed)


def _answers(logits: npt.NDArray[np.float32], regression: bool) -> npt.NDArray[np.int64]:
    """The class that the teacher sees in each text; of a regression, in which quarter of the texts its value is."""
    if not regression:
        return logits.argmax(1).astype(np.int64)
    values = logits[:, 0]
    return np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values).astype(np.int64)


def _in_turn(size: int, count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    rounds = [generator.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(rounds)[:count] if rounds else np.zeros(0, np.int64)


def _joined(first: Examples, second: Examples) -> Examples:
    pairs = None if first.pairs is None else [*first.pairs, *(second.pairs or [])]
    texts = [*first.texts, *second.texts]
    return Examples(texts, pairs, np.zeros(len(texts), np.int64))


def _unlabelled(examples: Examples, rows: npt.NDArray[np.int64]) -> Examples:
    pairs = None if examples.pairs is None else [examples.pairs[row] for row in rows]
    return Examples([examples.texts[row] for row in rows], pairs, np.zeros(len(rows), np.int64))
