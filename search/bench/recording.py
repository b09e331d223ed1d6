"""What a recording of real trials says, and the file that holds it.

The file is JSON with one list per column, short enough to ship. It holds no text: of the data there are only counts,
of the vocabulary the number of entries and the bytes of `vocab.txt` for every share that may be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from objectives.latency.recorded import Estimates
from space.errors import InputError
from space.shape import TaskShape

Origin = Literal["random", "known-cost", "variant", "repeat"]


class KeptVocabulary(BaseModel):
    """What a kept share of the vocabulary comes to.

    Attributes:
        keep: the share.
        entries: of the vocabulary.
        file_bytes: of `vocab.txt`.
        lengths: median and 95th percentile of the train texts, in word pieces.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: float
    entries: int
    file_bytes: int
    lengths: tuple[int, int]


class RecordedTrial(BaseModel):
    """One training.

    Attributes:
        number: of the recording.
        origin: how the configuration was found: drawn at random among the feasible ones, proposed by the known-cost
            sampler, a variant of a trial of the front, or an earlier configuration trained with another seed.
        repeats: number of that earlier trial.
        seed: of the training.
        params: flat parameters of the space.
        rungs: quality at each rung, of the student as it would be exported, on at most as much of the validation split
            as the study's early stopping says; of the last one the quality of the exported file on all of it.
        rung_seconds: processor seconds of training up to each rung, on one thread.
        deployed_bytes: of the exported file and its vocabulary.
        latency_ms, long_latency_ms: predicted by the latency model of the study's device.
        torch_quality: quality of the torch student at the last rung, where it was asked for.
        subsets: quality of a whole training on a share of the train split, by that share, where it was tried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    origin: Origin
    repeats: int | None
    seed: int
    params: dict[str, Any]
    rungs: tuple[float, ...]
    rung_seconds: tuple[float, ...]
    deployed_bytes: int
    latency_ms: float
    long_latency_ms: float
    torch_quality: float | None
    subsets: dict[str, float] = {}

    @property
    def quality(self) -> float:
        """After the whole training."""
        return self.rungs[-1]


class Setting(BaseModel):
    """What all trials of a recording share.

    Attributes:
        study: the study file, as YAML would give it, without where the data was read from.
        shape: of the students.
        vocabulary: by kept share.
        train_examples, validation_examples: numbers of texts.
        rungs: shares of the training at which quality was measured.
        steps: of the training.
        teacher_quality: on the validation split.
        versions: of what shaped the results.
        estimates: what operators cost on the study's device, and the memory they were fitted with: latencies of a
            frozen benchmark must not change with the costs that are recorded later.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: dict[str, Any]
    shape: TaskShape
    vocabulary: tuple[KeptVocabulary, ...]
    train_examples: int
    validation_examples: int
    rungs: tuple[float, ...]
    steps: int
    teacher_quality: float
    versions: dict[str, str]
    estimates: Estimates


class Recording(BaseModel):
    """A setting with its trials, in the order in which they were made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: Setting
    trials: tuple[RecordedTrial, ...]

    def configurations(self) -> tuple[RecordedTrial, ...]:
        """The trials but those that repeat another one."""
        return tuple(trial for trial in self.trials if trial.repeats is None)

    def pairs(self) -> list[tuple[RecordedTrial, RecordedTrial]]:
        """Each repeated trial with its repetition."""
        by_number = {trial.number: trial for trial in self.trials}
        return [(by_number[trial.repeats], trial) for trial in self.trials if trial.repeats is not None]


def joined(parts: Sequence[Recording]) -> Recording:
    """Recordings of one setting as one, in the order given.

    Raises:
        InputError: their settings differ.
    """
    trials: list[RecordedTrial] = []
    for part in parts:
        if part.setting != parts[0].setting:
            raise InputError("The recordings differ in their study, data or versions.", "Pack each by itself.")
        first = len(trials)
        for trial in part.trials:
            repeats = None if trial.repeats is None else trial.repeats + first
            trials.append(trial.model_copy(update={"number": trial.number + first, "repeats": repeats}))
    return Recording(setting=parts[0].setting, trials=tuple(trials))
