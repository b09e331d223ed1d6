"""Turns what pydantic and YAML say about a study file into one sentence that a user can act on."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from space.errors import InputError

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "model": "a section of keys and values",
    "dict": "a section of keys and values",
    "mapping": "a section of keys and values",
}

_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; this refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands there twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else repr(key))
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """A YAML mapping as a dictionary.

    Raises:
        InputError: the text is not YAML, or not a mapping; names `source` and the line.
    """
    try:
        data = yaml.load(text, Loader=_UniqueKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that there is not, and what is too deep
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" line {mark.line + 1}:"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{source}:{line} not valid YAML ({problem}).") from None
    if not isinstance(data, dict):
        raise InputError(f"{source}: a study file is a mapping of sections.", "See studies/quickstart.yaml.")
    return data


def closest(word: str, known: Sequence[str]) -> str:
    """A sentence that names the nearest of the known words, or all of them."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."


def explain(
    error: ValidationError, model: type[BaseModel], data: Any, source: str, given: Mapping[str, str] | None = None
) -> InputError:
    """The most telling of pydantic's errors, in one sentence.

    Args:
        error: raised on `data`.
        model: the model that refused.
        data: what was validated.
        source: file or option that it came from.
        given: for key paths that did not come from `source`, the option that set them.
    """
    # A mistyped key is two errors, one unknown and one missing key: the first is the cause.
    details = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    location = list(details["loc"])
    while isinstance(inner := details.get("ctx", {}).get("error"), ValidationError):
        details = min(inner.errors(), key=lambda item: item["type"] != "extra_forbidden")
        location += list(details["loc"])
    keys = _key_path(data, location, last_is_missing=details["type"] == "missing")
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
    option = (given or {}).get(path)
    where = f"{option}:" if option else f"{source}: {path}" if path else f"{source}:"
    if given and not location:  # of several sections: what was given may be what does not fit
        where = f"{source} with {', '.join(dict.fromkeys(given.values()))}:"
    if details["type"] == "extra_forbidden":
        parent = ".".join(str(key) for key in keys[:-1])
        known = sorted({name for found in _models_at(model, keys[:-1]) for name in found.model_fields})
        section = f"section {parent!r}" if parent else "a study file"
        return InputError(f"{source}: {path} is not a key of {section}.", _hint(str(keys[-1]), known, model))
    if details["type"] == "missing":
        return InputError(f"{where} is missing.")
    complaint = _complaint(details)
    if (complaint[0].isupper() or details["type"] == "data_source") and not where.endswith(":"):
        where += ":"
    fields = {name for found in _models_at(model, keys) for name in found.model_fields}
    between = "." if path and not option and complaint.split(" ")[0] in fields else " "  # of a field of that section
    return InputError(f"{where}{between}{complaint}" + "." * (not complaint.endswith("?")))


def _hint(key: str, known: Sequence[str], model: type[BaseModel]) -> str | None:
    """Where a key belongs that stands in the wrong section, else which one was probably meant."""
    elsewhere = [] if difflib.get_close_matches(key, known, n=1, cutoff=0.85) else _sections_with(key, model)
    if 0 < len(elsewhere) <= 3:
        return f"It belongs under {' or '.join(elsewhere)}."
    return closest(key, known) if known else None


def _sections_with(key: str, model: type[BaseModel], path: tuple[str, ...] = ()) -> list[str]:
    """Paths of the sections of a model that have a key; that of the model itself is `the top level`."""
    found = [".".join(path) or "the top level"] if key in model.model_fields else []
    for name, field in model.model_fields.items():
        if len(path) < 3 and name != "tasks":
            for inner in sorted(_models_in(field.annotation), key=lambda one: one.__name__):
                found += _sections_with(key, inner, (*path, name))
    return list(dict.fromkeys(found))


def _complaint(details: Any) -> str:
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    found = "nothing" if value is None else repr(value)
    if len(found) > 60:
        found = found[:57] + "..."
    if kind == "literal_error":
        near = difflib.get_close_matches(str(value), re.findall(r"'([^']+)'", context["expected"]), n=1, cutoff=0.6)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        return f"should be {context['expected']}, found {found}{meant}"
    if kind in ("value_error", "assertion_error", "data_source"):
        text = str(context.get("error") or details["msg"])
        return text.strip().rstrip(".")
    for bound, words in _BOUNDS.items():
        if kind == bound:
            return f"should be {words} {next(iter(context.values()))}, found {found}"
    if kind == "string_pattern_mismatch" and "://" in context["pattern"]:
        return f"should be the URL of a folder, like s3://bucket/folder, found {found}"
    if kind == "string_pattern_mismatch":
        return f"should be of letters, digits, dots, dashes and underscores, 64 at most, found {found}"
    wanted = _WANTED.get(kind.partition("_")[0])
    if wanted and kind.partition("_")[2] in ("type", "parsing", "from_float", "unicode", "attributes_type"):
        return f"should be {wanted}, found {found}"
    text = details["msg"].replace("Input should", "should")
    return f"{text[0].lower()}{text[1:]}, found {found}"


def _key_path(data: Any, location: Sequence[str | int], last_is_missing: bool) -> list[str | int]:
    """A pydantic location without the names that it adds for the members of unions.

    Only what can be followed in the data is a key; everything else is such a name.
    """
    if not location:
        return []
    key, rest = location[0], location[1:]
    if not rest and last_is_missing:
        return [key]
    is_key = (isinstance(data, Mapping) and key in data) or (
        isinstance(data, Sequence) and isinstance(key, int) and not isinstance(data, str) and key < len(data)
    )
    skipped = _key_path(data, rest, last_is_missing)
    if not is_key:
        return skipped
    taken = [key, *_key_path(data[key], rest, last_is_missing)]
    # A union's name may be a key too (`hub`): the reading that explains the last part is the right one.
    return skipped if skipped[-1:] == [location[-1]] != taken[-1:] else taken


def _models_at(model: type[BaseModel], keys: Sequence[str | int]) -> set[type[BaseModel]]:
    """The models that may describe what stands under a key path."""
    found = {model}
    for key in keys:
        if isinstance(key, int):
            continue
        fields = [m.model_fields[key] for m in found if key in m.model_fields]
        if not fields:  # the name of an entry, as of one of several tasks
            continue
        found = set().union(*(_models_in(field.annotation) for field in fields))
    return found


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    if get_origin(annotation) in (Union, types.UnionType, Annotated, list, tuple, dict):
        return set().union(*(_models_in(argument) for argument in get_args(annotation)))
    return set()
