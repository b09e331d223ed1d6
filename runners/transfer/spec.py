"""The `transfer:` section of a study file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

Name = Annotated[str, Field(min_length=1)]


class _Source(BaseModel):
    """What all sources of text have.

    Attributes:
        text: the text column, or two columns for sentence pairs; without meaning for a `.txt` file.
        sentences: split texts into sentences that fit the task's `max_length`.
        limit: take so many texts (sentences, if they are split) at most, evenly over the source.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Name | tuple[Name, Name] = "sentence"
    sentences: bool = False
    limit: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> _Source:
        if self.sentences and self.pairs:
            raise ValueError("pairs cannot be split into sentences: leave sentences out, or name one text column")
        return self

    @property
    def pairs(self) -> bool:
        """Whether the source holds pairs of texts."""
        return not isinstance(self.text, str)


class FileSource(_Source):
    """A file (Parquet, CSV, TSV, JSON, JSON lines, or `.txt` with a text on each line), or a folder of such files."""

    path: Name


class HubSource(_Source):
    """A split of a data set of the Hugging Face hub."""

    hub: Name
    config: Name | None = None
    split: Name = "train"


def _kind_of_source(value: Any) -> str | None:
    names = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return next((name for name in ("hub", "path") if name in names), None)


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, (dict, _Source)) else value


Source = Annotated[
    Annotated[HubSource, Tag("hub")] | Annotated[FileSource, Tag("path")],
    Discriminator(
        _kind_of_source,
        custom_error_type="data_source",
        custom_error_message="say where the text is: hub: ID, or path: FILE or DIR",
    ),
]


Sources = Annotated[tuple[Source, ...], BeforeValidator(_as_list)]


class TransferSpec(BaseModel):
    """Text without labels that students learn from beside the train split; the teacher scores it once.

    Attributes:
        sources: one source of text, or a list of them.
        recombine: for pair tasks, how many new pairs to make from the texts of the train split and of sources
            with one text column.
        augment: how many edited copies of the train split's texts, or pairs, to make: words replaced by near ones,
            left out or swapped (`runners.transfer.augment`).
        seed: of the samples (`limit`), of the new pairs and of the copies.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: Sources = ()
    recombine: int = Field(0, ge=0, le=10_000_000)
    augment: int = Field(0, ge=0, le=10_000_000)
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _holds_something(self) -> TransferSpec:
        if not (self.sources or self.recombine or self.augment):
            raise ValueError("should name sources of text, or a number of pairs to recombine or of texts to augment")
        return self

    def misfit(self, segments: int) -> str | None:
        """What keeps the section from serving a task with one text (1) or pairs of texts (2); None if nothing does."""
        if segments == 1:
            if self.recombine:
                return "transfer.recombine makes pairs, but the task reads single texts: leave it out"
            if any(source.pairs for source in self.sources):
                return "a transfer source has two text columns, but the task reads single texts: name one column"
        elif not self.recombine and any(not source.pairs for source in self.sources):
            return (
                "a transfer source has one text column, but the task reads pairs: name two columns, or say with "
                "recombine: N how many pairs to make of its texts"
            )
        return None
