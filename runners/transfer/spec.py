"""The `transfer:` section of a study file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

Name = Annotated[str, Field(min_length=1)]


class _Source(BaseModel):
    """What all sources of text have.

    Attributes:
        text: the text column, or two columns for sentence pairs; a column of lists of words counts as text with spaces
            between them. Without meaning for a `.txt` file.
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


def _as_methods(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


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


Augmentation = Literal["random", "masked", "learned"]


class AugmentSpec(BaseModel):
    """Section `transfer.augment`: new texts made of those that the study has.

    A study that names several methods makes so many texts by each; `space.config.Recipe.augmentation` says which of
    them a student learns from.

    Attributes:
        count: texts, or pairs, to make by each method.
        methods: `random` replaces words of the train split by near ones, leaves them out or swaps them
            (`runners.transfer.augment`); `masked` has a masked language model draw words of the train split and of the
            sources anew; `learned` keeps, of more of those, what a selector finds good for a student (L2A, Feng et al.
            2021, arXiv 2101.08106; `runners.augmentation`).
        masked_model: Hugging Face id or folder of a masked language model with a WordPiece vocabulary; without it, the
            pretrained teacher learns to fill in words of the text at hand.
        candidates: of `learned`, how many texts there are for each that is kept.
        episodes: of `learned`, how many rewards the selector learns from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(ge=1, le=10_000_000)
    methods: Annotated[tuple[Augmentation, ...], BeforeValidator(_as_methods)] = Field(("random",), min_length=1)
    masked_model: Name | None = None
    candidates: int = Field(4, ge=2, le=100)
    episodes: int = Field(200, ge=1, le=100_000)

    @model_validator(mode="after")
    def _fits_together(self) -> AugmentSpec:
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("methods names the same method twice")
        if self.masked_model is not None and self.methods == ("random",):
            raise ValueError("masked_model is never used: add masked or learned to methods")
        for name in ("candidates", "episodes") if "learned" not in self.methods else ():
            # A dumped specification names every field: one that is as by default says nothing.
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is never used: add learned to methods")
        return self


def _as_augment(value: Any) -> Any:
    """A number alone is of random edits; 0 is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"count": value} if value else None
    return value


class TransferSpec(BaseModel):
    """Text without labels that students learn from beside the train split; the teacher scores it once.

    Where students are for one domain (`TaskSpec.target`), that domain alone is the train split of what follows.

    Attributes:
        sources: one source of text, or a list of them.
        recombine: for pair tasks, how many new pairs to make from the texts of the train split and of sources
            with one text column.
        augment: how many edited copies of the train split's texts, or pairs, to make; or `AugmentSpec`.
        seed: of the samples (`limit`), of the new pairs and of the copies.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: Sources = ()
    recombine: int = Field(0, ge=0, le=10_000_000)
    augment: Annotated[AugmentSpec | None, BeforeValidator(_as_augment)] = None
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _holds_something(self) -> TransferSpec:
        if not (self.sources or self.recombine or self.augment):
            raise ValueError("should name sources of text, or a number of pairs to recombine or of texts to augment")
        return self

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The methods by which texts are made."""
        return () if self.augment is None else self.augment.methods

    def serves(self, augmentation: str) -> bool:
        """Whether it has text for students whose recipe names that augmentation (`TransferOutputs.rows_of`)."""
        made = self.augmentations if augmentation == "all" else {augmentation} & {*self.augmentations}
        return bool(self.sources or self.recombine or made)

    def misfit(self, segments: int, per_token: bool = False) -> str | None:
        """What keeps the section from serving a task; None if nothing does.

        Args:
            segments: 1 for one text, 2 for pairs of texts.
            per_token: whether words are what is labelled.
        """
        if per_token and "learned" in self.augmentations:
            return "transfer.augment: learned is for tasks that judge whole texts, not words; random and masked are not"
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
