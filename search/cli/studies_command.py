"""The command that lists studies."""

from __future__ import annotations

import json as json_format
from typing import TYPE_CHECKING, Any

import typer

from search.cli.options import JsonOption, StorageOption

if TYPE_CHECKING:
    from search.study import Study


def studies(json: JsonOption = False, storage: StorageOption = None) -> None:
    """The studies that come with Shoebox, and those in the storage."""
    from search.cli.tables import output_console, studies_table
    from search.study import list_studies
    from search.study_file import shipped_studies
    from search.validation import parse_yaml

    shipped = {name: parse_yaml(content, name).get("description", "") for name, content in shipped_studies().items()}
    found = [study_row(study) for study in list_studies(storage)]
    if json:
        answer = {
            "shipped": [{"study": name, "description": text} for name, text in shipped.items()],
            "in_storage": found,
        }
        typer.echo(json_format.dumps(answer, indent=2))
        return
    console = output_console()
    console.print("Shipped:", highlight=False)
    for name, text in shipped.items():
        console.print(f"  {name:<12} {text}", markup=False, highlight=False, soft_wrap=True)
    if found:
        console.print("In the storage:", highlight=False)
        console.print(studies_table(found))
    else:
        console.print("None in the storage yet.", highlight=False)


def study_row(study: Study) -> dict[str, Any]:
    """What is said of a study in a list."""
    from space.errors import InputError

    try:
        file = study.file
    except InputError:
        return {"study": study.name, "readable": False}
    states = study.states()
    failed = states.count("failed")
    return {
        "study": study.name,
        "readable": True,
        "description": file.description,
        "trained": states.count("finished") + states.count("stopped") + failed,
        "trials": file.search.trials,
        "infeasible": states.count("infeasible"),
        "failed": failed,
        "running": states.count("running"),
        "metric": file.metric,
        "best_quality": max((found["quality"] for found in study.measurements.values()), default=None),
        "objectives": study.objectives,
        "device": file.device.profile,
        "sampler": file.search.sampler,
    }
