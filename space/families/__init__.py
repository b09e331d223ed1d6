"""Student families and what can be asked of any of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

import onnx
from pydantic import BeforeValidator, SerializeAsAny

from space.config import StudentConfig
from space.errors import InputError
from space.families.base import INPUTS, Family, Student
from space.families.birnn import BirnnFamily
from space.families.conv import ConvFamily
from space.families.transformer import TransformerFamily
from space.graph import build_model, encoded_size
from space.shape import TaskShape
from space.vocabulary import Vocabulary

FAMILIES: dict[str, Family] = {family.name: family for family in (TransformerFamily(), BirnnFamily(), ConvFamily())}


def get_family(name: str) -> Family:
    """The family of a name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in FAMILIES:
        raise InputError(f"There is no student family {name!r}.", f"Known: {', '.join(FAMILIES)}.")
    return FAMILIES[name]


def parse_config(value: Any) -> StudentConfig:
    """A configuration from its JSON form, of the family that it names."""
    if isinstance(value, StudentConfig):
        return value
    if not isinstance(value, Mapping) or "family" not in value:
        raise InputError("A student configuration must be a mapping with the key 'family'.")
    return get_family(str(value["family"])).config.model_validate(dict(value))


AnyStudentConfig = Annotated[SerializeAsAny[StudentConfig], BeforeValidator(parse_config)]


def deployed_bytes(config: StudentConfig, shape: TaskShape, vocabulary: Vocabulary) -> int:
    """Exact size of `model.onnx` and `vocab.txt` of a configuration, in bytes, without building either."""
    vocabulary = vocabulary.ranked_by(config.vocabulary_score)
    size = vocabulary.size(config.vocabulary_keep)
    return model_bytes(config, shape, size) + vocabulary.file_bytes(size)


def model_bytes(config: StudentConfig, shape: TaskShape, vocabulary_size: int) -> int:
    """Exact size of `model.onnx` alone, of a student with a vocabulary of that size."""
    sizes = get_family(config.family).part_sizes(config, shape, vocabulary_size)
    return encoded_size(sizes, INPUTS[shape.segments], shape.graph_outputs)


def export_model(config: StudentConfig, shape: TaskShape, vocabulary_size: int, student: Student) -> onnx.ModelProto:
    """The ONNX model of a student, with the weights that it has now."""
    parts = get_family(config.family).graph(config, shape, vocabulary_size)
    return build_model(parts, INPUTS[shape.segments], shape.graph_outputs, student.weights())


def build_student(config: StudentConfig, shape: TaskShape, vocabulary_size: int) -> Student:
    """A torch student with random weights (of torch's global generator)."""
    return get_family(config.family).build(config, shape, vocabulary_size)


def architecture_key(config: StudentConfig, shape: TaskShape, vocabulary_size: int) -> str:
    """Names all that fixes a student's work per inference: shapes and bits, not weights (hexadecimal)."""
    family = get_family(config.family)
    structure = dict(family.structure(config))
    for name in ("vocabulary_keep", "vocabulary_score"):  # which entries there are is no matter, but how many
        structure.pop(name)
    content = {
        "structure": structure,
        "graph": family.graph_version,
        "shape": shape.model_dump(exclude_defaults=True),
        "vocabulary": vocabulary_size,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
