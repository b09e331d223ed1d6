"""The joint space of architectures, bit-widths and recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from space.config import Bits, BlockSize, Recipe, StudentConfig
from space.dimensions import (
    Choices,
    Chooser,
    Dimension,
    OptunaTrial,
    Range,
    check_values,
    contains,
    draw_from,
    ends,
    extremes,
    is_fixed,
    suggest_from,
    take_from,
)
from space.errors import InputError
from space.families import FAMILIES, deployed_bytes, get_family
from space.shape import TaskShape
from space.vocabulary import Vocabulary

_SHARED = ("vocabulary_keep", "vocabulary_score", "embedding_width", "embedding_bits", "block_size", "accuracy_level")


class RecipeDimensions(BaseModel):
    """Section `space: recipe:`; see `space.config.Recipe` for what each is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: Dimension = Range(low=5e-4, high=4e-3, log=True)
    label_weight: Dimension = Range(low=0.0, high=1.0)
    logit_weight: Dimension = Range(low=0.25, high=2.0)
    hidden_weight: Dimension = Range(low=0.0, high=4.0)
    temperature: Dimension = Range(low=1.0, high=6.0)
    teacher_learning_rate: Dimension = Choices(values=(0.0, 1e-5, 1e-4))
    teacher_update: Dimension = Choices(values=("task_layer",))
    teacher_kind: Dimension = Choices(values=("study",))
    state_weight: Dimension = Choices(values=(0.0,))
    relation_weight: Dimension = Choices(values=(0.0,))
    initialization: Dimension = Choices(values=("random", "teacher"))
    schedule: Dimension = Choices(values=("joint",))
    example_weighting: Dimension = Choices(values=("none",))
    transfer_share: Dimension = Choices(values=(0.0,))
    augmentation: Dimension = Choices(values=("all",))
    task_exponent: Dimension = Choices(values=(0.5,))
    head_bias: Dimension = Choices(values=("trained",))
    quantization: Dimension = Choices(values=("aware",))
    clipping: Dimension = Choices(values=("auto",))

    @model_validator(mode="after")
    def _fits(self) -> RecipeDimensions:
        for name in type(self).model_fields:
            check_values(name, getattr(self, name), Recipe)
        return self


class _SharedDimensions(BaseModel):
    """Section `space:` of a study file.

    A dimension is a list of choices, `{low, high}` with `step` or `log: true`, or one fixed value. Each family
    adds a section of its name with its own dimensions; `families` says which are searched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    families: tuple[str, ...] = Field(default=("transformer",), min_length=1)
    vocabulary_keep: Dimension = Choices(values=(0.05, 0.1, 0.15, 0.2, 0.3, 0.4))
    vocabulary_score: Dimension = Choices(values=("attention_sum",))
    embedding_width: Dimension = Choices(values=(32, 64, 96, 128))
    embedding_bits: Dimension = Choices(values=(2, 4, 8))
    block_size: Dimension = Choices(values=(32, 64))
    accuracy_level: Dimension = Choices(values=(4,))
    recipe: RecipeDimensions = RecipeDimensions()

    @model_validator(mode="after")
    def _fits(self) -> _SharedDimensions:
        for name in _SHARED:
            check_values(name, getattr(self, name), StudentConfig)
        return self

    @field_validator("families")
    @classmethod
    def _known(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        for family in families:
            get_family(family)
        if len(set(families)) != len(families):
            raise ValueError("names the same family twice")
        return families


_family_sections: dict[str, Any] = {name: (family.dimensions, family.dimensions()) for name, family in FAMILIES.items()}
SpaceSpec = create_model("SpaceSpec", __base__=_SharedDimensions, **_family_sections)
SpaceSpec.__doc__ = _SharedDimensions.__doc__


class JointSpace:
    """Draws configurations and recipes, and maps them to flat parameters and back.

    Parameter names are stable: `width`, `layer2.ffn_bits`, `recipe.temperature`. A dimension with one value is
    no parameter.

    Args:
        spec: section `space:` of the study file.
    """

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self._family = Choices(values=tuple(spec.families))

    def suggest(self, trial: OptunaTrial) -> tuple[StudentConfig, Recipe]:
        """What an Optuna trial proposes."""
        return self._build(suggest_from(trial))

    def from_params(self, params: Mapping[str, Any]) -> tuple[StudentConfig, Recipe]:
        """Inverse of `to_params`.

        Raises:
            InputError: a parameter is missing or outside its dimension.
        """
        return self._build(take_from(params))

    def config_from(self, params: Mapping[str, Any]) -> StudentConfig:
        """The configuration alone: all that bytes and latency depend on.

        Raises:
            InputError: a parameter is missing or outside its dimension.
        """
        choose = take_from(params)
        return self._config(choose("family", self._family), choose)

    def choose(self, choose: Chooser) -> dict[str, Any]:
        """Flat parameters that a chooser gives, in the order in which it is asked; nothing is built or checked."""
        params: dict[str, Any] = {}

        def keep(name: str, dimension: Choices | Range) -> Any:
            value = choose(name, dimension)
            if not is_fixed(dimension):
                params[name] = value
            return value

        family = keep("family", self._family)
        for name in _SHARED:
            keep(name, getattr(self.spec, name))
        get_family(family).choose(getattr(self.spec, family), keep)
        for name in RecipeDimensions.model_fields:
            keep(f"recipe.{name}", getattr(self.spec.recipe, name))
        return params

    def draw(self, generator: np.random.Generator) -> tuple[StudentConfig, Recipe]:
        """Uniformly at random."""
        return self._build(draw_from(generator))

    def to_params(self, config: StudentConfig, recipe: Recipe) -> dict[str, Any]:
        """Flat parameters of a configuration and a recipe, as Optuna stores them."""
        flat = {"family": config.family, **{name: getattr(config, name) for name in _SHARED}}
        flat.update(get_family(config.family).parameters(config))
        flat.update({f"recipe.{name}": value for name, value in recipe.model_dump().items()})
        names: set[str] = set()

        def collect(name: str, dimension: Choices | Range) -> Any:
            if not is_fixed(dimension):
                names.add(name)
            return flat[name]

        self._build(collect)
        return {name: value for name, value in flat.items() if name in names}

    def smallest_bytes(self, shape: TaskShape, vocabulary: Vocabulary) -> int:
        """Bytes of the smallest student in the space."""
        # Large blocks have fewer scales, but fill up rows that are no multiple of them: neither end is smallest.
        blocks = [size for size in get_args(BlockSize) if contains(self.spec.block_size, size)]
        sizes = []
        for name in self.spec.families:
            # What is chosen by name has no order of size either.
            fields: dict[str, Sequence[Any]] = {
                "block_size": blocks,
                "vocabulary_score": ends(self.spec.vocabulary_score),
                **{field: d.values for field, d in self._named(name)},
            }
            own = getattr(self.spec, name)
            if "load" in ends(own.unpacking):
                # Nor have bits: those that are unpacked at load bring operators along, by their number. Layers are
                # alike: what is smallest for one is so for all.
                found = {"embedding_bits": self.spec.embedding_bits, **{d: value for d, value in own if "_bits" in d}}
                fields |= {d: [bits for bits in get_args(Bits) if contains(v, bits)] for d, v in found.items()}
            for values in product(*fields.values()):
                fixed = dict(zip(fields, values, strict=True))
                config = self._config(name, extremes(get_family(name).larger_is_smaller, fixed))
                sizes.append(deployed_bytes(config, shape, vocabulary))
        return min(sizes)

    def _named(self, family: str) -> list[tuple[str, Choices]]:
        """The family's dimensions whose values are names."""
        fields = get_family(family).config.model_fields
        dimensions = (
            (field, d) for field, d in getattr(self.spec, family) if field in fields and isinstance(d, Choices)
        )
        return [(field, d) for field, d in dimensions if isinstance(d.values[0], str)]

    def _build(self, choose: Chooser) -> tuple[StudentConfig, Recipe]:
        config = self._config(choose("family", self._family), choose)
        dimensions = self.spec.recipe
        fields = {name: choose(f"recipe.{name}", getattr(dimensions, name)) for name in RecipeDimensions.model_fields}
        try:
            return config, Recipe(**fields)
        except ValidationError as error:
            raise _refused(error) from None

    def _config(self, family_name: str, choose: Chooser) -> StudentConfig:
        family = get_family(family_name)
        fields = {name: choose(name, getattr(self.spec, name)) for name in _SHARED}
        fields.update(family.choose(getattr(self.spec, family_name), choose))
        try:
            return family.config(family=family_name, **fields)
        except ValidationError as error:
            raise _refused(error) from None


def _refused(error: ValidationError) -> InputError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "configuration"
    return InputError(f"The space proposes a {place} that cannot be built: {first['msg']}.", "Narrow the dimension.")
