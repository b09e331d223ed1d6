"""What to try next, what is remembered, what users ask.

    from search import load_study, run_study

    study = run_study("quickstart")          # a shipped study's name or the path of a study file
    for record in study.pareto():            # finished trials within the limits that no other beats
        print(record.quality, record.latency.milliseconds, record.deployed_bytes, record.bundle)

    load_study("quickstart").best()          # the record with the highest quality

These names stay as they are; everything below them may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.run import run_study
    from search.study import Study, StudyTrial, list_studies, load_study
    from search.study_file import StudyFile, load_study_file

__all__ = [
    "Study",
    "StudyFile",
    "StudyTrial",
    "list_studies",
    "load_study",
    "load_study_file",
    "run_study",
]

_MODULES = {
    "run_study": "search.run",
    "StudyFile": "search.study_file",
    "load_study_file": "search.study_file",
}


def __getattr__(name: str) -> Any:
    # On first use: the rooms below bring torch, and the command line must answer --help at once.
    if name in __all__:
        return getattr(import_module(_MODULES.get(name, "search.study")), name)
    raise AttributeError(f"module 'search' has no attribute {name!r}")
