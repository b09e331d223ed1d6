"""What an archive says is checked before any of it is stored: checksums tell only that it is as somebody wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from optuna.trial import FrozenTrial
from pydantic import Strict, TypeAdapter, ValidationError

from runners.record import ArmQuality, TrialRecord
from search.direct_storage import check_compatible
from search.exchange.content import StudyContent, TrialContent
from search.states import RECORD
from search.study import ON_ARM
from space.errors import InputError

_CONSTRAINTS = "constraints"  # Optuna's: a list once, now a number for each name
_NUMBER: TypeAdapter[Any] = TypeAdapter(Annotated[float, Strict()])
_NUMBERS: TypeAdapter[Any] = TypeAdapter(list[Annotated[float, Strict()]] | None)
_RECORD = TypeAdapter(TrialRecord)
_ON_ARM = TypeAdapter(dict[str, ArmQuality])
_HINT = "Another version of Shoebox may have written it."


def check_contents(content: StudyContent, trials: Sequence[TrialContent], source: str) -> None:
    """Check what queries read of a study's attributes and of its trials.

    Args:
        content, trials: of an archive.
        source: its name.

    Raises:
        InputError: something is no such thing; names the trial and the key.
    """
    if ON_ARM in content.attributes:
        _check(_ON_ARM, content.attributes[ON_ARM], f"{source}: study.json: attributes.{ON_ARM}")
    for trial in trials:
        where = f"{source}: trial {trial.number}"
        if trial.values is not None and len(trial.values) != len(content.directions):
            raise InputError(f"{where}: values: {len(trial.values)} for {len(content.directions)} objectives.")
        if RECORD in trial.attributes:
            _check(_RECORD, trial.attributes[RECORD], f"{where}: attributes.{RECORD}")
        for key, value in trial.system_attributes.items():
            if key == _CONSTRAINTS or key.startswith(f"{_CONSTRAINTS}:"):
                kind = _NUMBERS if key == _CONSTRAINTS else _NUMBER
                _check(kind, value, f"{where}: system_attributes.{key}")


def check_distributions(trials: Sequence[FrozenTrial], source: str) -> None:
    """Check that trials search each parameter in the same way.

    Raises:
        InputError: they do not; names the trial and the parameter.
    """
    try:
        check_compatible(trials)
    except ValueError as error:
        raise InputError(f"{source}: {str(error).rstrip('.')}.", _HINT) from None


def _check(adapter: TypeAdapter[Any], value: Any, where: str) -> None:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join((where, *map(str, first["loc"])))
        raise InputError(f"{place}: {first['msg']}.", _HINT) from None
