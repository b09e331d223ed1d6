"""The command that compares samplers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, get_args

import typer

from search.cli.options import JsonOption

DEFAULT_SAMPLERS = "known-cost,tpe,nsga2,random"
DEFAULT_OBJECTIVES = "quality,latency_ms"


class BenchFormat(StrEnum):
    """How a comparison is printed."""

    table = "table"
    json = "json"


def bench_samplers(
    samplers: Annotated[str, typer.Option(help="Names with commas between.")] = DEFAULT_SAMPLERS,
    seeds: Annotated[int, typer.Option(min=1, help="Studies per sampler.")] = 10,
    trials: Annotated[int, typer.Option(min=1, help="Trained trials per study.")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="Simulated trials at a time.")] = 1,
    objectives: Annotated[
        str, typer.Option(help="quality and any of latency_ms, long_latency_ms, deployed_bytes.")
    ] = DEFAULT_OBJECTIVES,
    format: Annotated[BenchFormat, typer.Option(help="How to print.")] = BenchFormat.table,
    json: JsonOption = False,
) -> None:
    """Compare samplers on a problem whose trials take no time: hypervolume against trained trials."""
    from search.bench import SyntheticProblem, compare
    from search.cli.tables import output_console
    from search.samplers import SAMPLERS, SamplerName
    from search.validation import closest
    from space.errors import InputError

    names: list[SamplerName] = []
    for name in samplers.split(","):
        if name not in SAMPLERS:
            raise InputError(f"--samplers: there is no sampler {name!r}.", closest(name, get_args(SamplerName)))
        names.append(name)
    if len(set(names)) != len(names):
        raise InputError(f"--samplers names a sampler twice: {samplers}.")
    wanted = tuple(objectives.split(","))
    known = ("quality", "latency_ms", "long_latency_ms", "deployed_bytes")
    for objective in wanted:
        if objective not in known:
            raise InputError(f"--objectives: there is no objective {objective!r}.", closest(objective, known))
    if "quality" not in wanted or len(set(wanted)) != len(wanted):
        raise InputError("--objectives should hold quality, and nothing twice.")
    progress = output_console(stderr=True)

    def tell(sampler: SamplerName, seed: int) -> None:
        progress.print(f"{sampler}: {seed + 1} of {seeds} studies", highlight=False)

    comparison = compare(SyntheticProblem(wanted), names, seeds, trials, workers, tell)
    if json or format is BenchFormat.json:
        typer.echo(comparison.as_json())
        return
    console = output_console()
    console.print(comparison.table())
