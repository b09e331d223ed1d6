"""The `task:` section of a study file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from objectives.quality import REGRESSION_METRICS, TAG_METRICS, Metric

Name = Annotated[str, Field(min_length=1)]
Value = bool | int | str


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
        tokens, tags: the columns of a token-classification: lists of words, and lists of as many tags (names or
            indices).
        where: take only rows that have these values, or one of them where a list is given, in these columns.
        domain: the column that says which domain each row is from (a shop's department, a genre): text, whole numbers
            or truth values. For `teacher.kind: meta` and `space.recipe.example_weighting`.
        target: a domain that students are for: they learn from its rows and are judged on its validation rows. The
            teacher learns from all domains; one teacher serves every target.
        unseen: a domain that students are for without having seen it: nothing of it is trained on, by teacher or
            student, and the validation split is that domain alone.
        kind: classification, regression, or token-classification, which labels every word.
        labels: names of the classes in index order, or how many classes there are. Without it, names come
            from the data: class indices must then be 0, 1, ... without a gap in train, and string labels
            are numbered in sorted order. Tags start with O; each type of entity gets both its B- and its I- tag.
        metric: the quality that the search raises, on the validation split.
        max_length: longest input in word pieces, special tokens included; longer texts are cut.
    """

    data: DataSource
    text: Name | tuple[Name, Name] = "sentence"
    label: Name = "label"
    tokens: Name = "tokens"
    tags: Name = "tags"
    where: dict[Name, Value | tuple[Value, ...]] = Field(default_factory=dict)
    domain: Name | None = None
    target: Value | None = None
    unseen: Value | None = None
    kind: Literal["classification", "regression", "token-classification"] = "classification"
    labels: Annotated[int, Field(ge=2, le=100_000)] | tuple[Name, ...] | None = None
    metric: Metric = "accuracy"
    max_length: int = Field(64, ge=4, le=512)

    @model_validator(mode="after")
    def _fits_together(self) -> TaskSpec:
        fitting: tuple[Metric, ...] = ("accuracy", "f1", "matthews")
        if self.kind != "classification":
            fitting = tuple(sorted(REGRESSION_METRICS if self.regression else TAG_METRICS))
        if self.metric not in fitting:
            known = f"{', '.join(fitting[:-1])} or {fitting[-1]}"
            raise ValueError(f"metric {self.metric} does not fit a {self.kind}: use {known}")
        for name in ("text", "label") if self.per_token else ("tokens", "tags"):
            # A dumped specification names every field: one that is as by default says nothing.
            if getattr(self, name) != type(self).model_fields[name].default:
                columns = "tokens and tags" if self.per_token else "text and label"
                raise ValueError(f"{name} is no column of a {self.kind}: name its columns under {columns}")
        if any(values == () for values in self.where.values()):
            raise ValueError("where holds an empty list: name the values to take")
        for name in ("target", "unseen"):
            if getattr(self, name) is not None and self.domain is None:
                raise ValueError(f"{name} is a domain: name the column of domains under domain")
        if self.target is not None and self.unseen is not None:
            raise ValueError("target and unseen exclude each other: students are for one domain")
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
    def per_token(self) -> bool:
        """Whether every word has a label."""
        return self.kind == "token-classification"

    @property
    def text_columns(self) -> tuple[str, ...]:
        """One column, or two for sentence pairs."""
        return (self.text,) if isinstance(self.text, str) else self.text
