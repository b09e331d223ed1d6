"""What a task looks like, and how similar two tasks are."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

FINGERPRINT = "task_fingerprint"  # attribute of a study
WORDS = 500
UNKNOWN = 0.5  # similarity to a study that has no fingerprint


class Fingerprint(BaseModel):
    """A task in figures that cost nothing once it is prepared.

    Attributes:
        metric: of the quality.
        outputs, segments, per_token: of the students' interface (`space.TaskShape`).
        length: median length of a text in word pieces, None where the pipeline does not tell.
        words: the entries of the vocabulary that the teacher attends to most on the task's text.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version may tell more

    metric: str
    outputs: int
    segments: int
    per_token: bool
    length: int | None
    words: frozenset[str]

    def as_json(self) -> dict[str, Any]:
        """The same text for the same task."""
        return {**self.model_dump(mode="json", exclude={"words"}), "words": sorted(self.words)}


def fingerprint(prepared: Any, metric: str) -> Fingerprint:
    """Of the task of a study.

    Args:
        prepared: `runners.prepared.Prepared`, or that of another pipeline: with a shape and a vocabulary.
        metric: of the study.
    """
    shape, vocabulary = prepared.shape, prepared.vocabulary
    always = vocabulary.size(0.0)  # special tokens and characters, which every student has
    size = min(always + WORDS, len(vocabulary))
    lengths = getattr(prepared, "text_lengths", None)
    return Fingerprint(
        metric=metric,
        outputs=shape.outputs,
        segments=shape.segments,
        per_token=shape.per_token,
        length=None if lengths is None else lengths(len(vocabulary))[0],
        words=frozenset(vocabulary.tokens(size)) - frozenset(vocabulary.tokens(always)),
    )


def similarity(one: Fingerprint | None, other: Fingerprint | None) -> float:
    """How much two tasks have in common, from 0 to 1: the share of their words, less for every other difference.

    A rule of thumb. It says which of several studies comes first and how much each may have; what a study's
    configurations are worth on the new task is measured there.
    """
    if one is None or other is None:
        return UNKNOWN
    found = len(one.words & other.words) / max(1, min(len(one.words), len(other.words)))
    found *= 1.0 if one.per_token == other.per_token else 0.25
    found *= 1.0 if one.segments == other.segments else 0.5
    found *= 1.0 if (one.outputs == 1) == (other.outputs == 1) else 0.7  # regression or classes
    found *= _ratio(one.outputs, other.outputs) ** 0.25
    if one.length and other.length:
        found *= _ratio(one.length, other.length) ** 0.5
    return round(found, 4)


def _ratio(one: float, other: float) -> float:
    return min(one, other) / max(one, other)
