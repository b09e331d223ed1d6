"""The `task:` section of a study file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from objectives.quality import REGRESSION_METRICS, Metric

Name = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HubData(_Section):
    """A data set of the Hugging Face hub, with the names of its two splits."""

    hub: Name
    config: Name | None = None
    train: Name = "train"
    validation: Name = "validation"


class FolderData(_Section):
    """A folder with `train.*` and `validation.*` (Parquet, CSV, TSV, JSON or JSON lines)."""

    path: Name


class FilesData(_Section):
    """Two files (Parquet, CSV, TSV, JSON or JSON lines)."""

    train: Name
    validation: Name


class GrammarData(_Section):
    """Text that Shoebox makes itself from a seeded grammar: so many sentences in each split."""

    grammar: Literal["sentiment"]
    train: int = Field(4000, ge=2, le=100_000)
    validation: int = Field(500, ge=2, le=100_000)
    seed: int = Field(0, ge=0)


def _kind_of_data(value: Any) -> str | None:
    names = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    for name in ("hub", "path", "grammar"):
        if name in names:
            return name
    return "files" if "train" in names else None


DataSource = Annotated[
    Annotated[HubData, Tag("hub")]
    | Annotated[FolderData, Tag("path")]
    | Annotated[FilesData, Tag("files")]
    | Annotated[GrammarData, Tag("grammar")],
    Discriminator(
        _kind_of_data,
        custom_error_type="data_source",
        custom_error_message="say where the data is: hub: ID, path: DIR, train: and validation: FILE, or grammar: NAME",
    ),
]


class TaskSpec(_Section):
    """What is learned from which text.

    Attributes:
        data: where the two splits come from; `validation` selects, it is never trained on.
        text: the text column, or two columns for sentence pairs.
        label: the label column: class indices, class names, or real values for a regression.
        kind: classification or regression.
        labels: names of the classes in index order, or how many classes there are. Without it, names come
            from the data: class indices must then be 0, 1, ... without a gap in train, and string labels
            are numbered in sorted order.
        metric: the quality that the search raises, on the validation split.
        max_length: longest input in word pieces, special tokens included; longer texts are cut.
    """

    data: DataSource
    text: Name | tuple[Name, Name] = "sentence"
    label: Name = "label"
    kind: Literal["classification", "regression"] = "classification"
    labels: Annotated[int, Field(ge=2, le=100_000)] | tuple[Name, ...] | None = None
    metric: Metric = "accuracy"
    max_length: int = Field(64, ge=4, le=512)

    @model_validator(mode="after")
    def _fits_together(self) -> TaskSpec:
        if self.regression != (self.metric in REGRESSION_METRICS):
            fitting = "pearson or spearman" if self.regression else "accuracy, f1 or matthews"
            raise ValueError(f"metric {self.metric} does not fit a {self.kind}: use {fitting}")
        if self.regression and self.labels is not None:
            raise ValueError("a regression has no class labels: leave labels out")
        if isinstance(self.labels, tuple) and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise ValueError("labels must name at least two classes, each once")
        return self

    @property
    def regression(self) -> bool:
        """Whether labels are real values."""
        return self.kind == "regression"

    @property
    def text_columns(self) -> tuple[str, ...]:
        """One column, or two for sentence pairs."""
        return (self.text,) if isinstance(self.text, str) else self.text
