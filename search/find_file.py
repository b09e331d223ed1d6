"""The study file that a name stands for: that of a study in the storage, else a shipped one or one at a path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from search.overrides import apply_overrides
from search.storage import default_url, open_storage, storage_exists, study_names
from search.study import Study, load_study
from search.study_file import OWN_STUDY, StudyFile, load_study_file, shipped_studies
from search.validation import closest, explain
from space.errors import InputError


def find_file(
    name: str, storage: str | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[StudyFile, Study | None]:
    """A study file, and the study in the storage if it is the file of one.

    Args:
        name: of a study in the storage or of a shipped one, or the path of a study file.
        storage: URL; default `home()/studies.db`.
        overrides: changes to the file, as `load_study_file` takes them.

    Raises:
        InputError: there is none of that name, it cannot be read, or an override does not fit it.
    """
    try:
        study = load_study(name, storage)
    except InputError as missing:
        try:
            return load_study_file(name, overrides), None
        except InputError:
            if name in shipped_studies() or name.endswith((".yaml", ".yml")):
                raise
            url = storage or default_url()
            known = study_names(open_storage(url)) if storage_exists(url) else []
            hint = f"{closest(name, list(dict.fromkeys([*known, *shipped_studies()])))} {OWN_STUDY}"
            raise InputError(f"{missing.message[:-1]}, and no shipped one.", hint) from None
    data = study.file.model_dump(mode="json")
    given = apply_overrides(data, overrides or {})
    try:
        return StudyFile.model_validate(data), study
    except ValidationError as error:
        raise explain(error, StudyFile, data, f"Study {name!r}", given) from None
