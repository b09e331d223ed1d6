"""The command that compares samplers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from search.cli.options import JsonOption, given_of

DEFAULT_SAMPLERS = "known-cost,known-cost+halving,tpe,nsga2,random"
DEFAULT_OBJECTIVES = "quality,latency_ms"
_OF_SAMPLERS = ("samplers", "seeds", "trials", "workers", "format", "json")  # of no meaning beside --fit


class BenchProblem(StrEnum):
    """What is searched."""

    sst2 = "sst2"
    banking77 = "banking77"
    synthetic = "synthetic"


class BenchFormat(StrEnum):
    """How a comparison is printed."""

    table = "table"
    json = "json"


def bench_samplers(
    context: typer.Context,
    problem: Annotated[BenchProblem, typer.Option(help="Recorded trials of a task, or a formula.")] = BenchProblem.sst2,
    samplers: Annotated[
        str, typer.Option(help="Names with commas between; NAME+halving stops trials early.")
    ] = DEFAULT_SAMPLERS,
    seeds: Annotated[int, typer.Option(min=1, help="Studies per sampler.")] = 10,
    trials: Annotated[int, typer.Option(min=1, help="Trials handed out per study.")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="Simulated trials at a time.")] = 1,
    objectives: Annotated[
        str, typer.Option(help="quality and any of latency_ms, long_latency_ms, deployed_bytes.")
    ] = DEFAULT_OBJECTIVES,
    fit: Annotated[bool, typer.Option("--fit", help="Only say how far the recorded problem can be trusted.")] = False,
    format: Annotated[BenchFormat | None, typer.Option(help="How to print.", show_default="table")] = None,
    json: JsonOption = False,
) -> None:
    """Compare samplers on a problem whose trials take no time: hypervolume against trials and training cost."""
    import optuna

    from search.bench import Contender, Problem, SyntheticProblem, compare
    from search.cli.tables import output_console
    from search.validation import closest
    from space.errors import InputError

    if json and format is BenchFormat.table:
        raise InputError("--json and --format table are two answers.", "Give one of them.")
    if fit and (given := given_of(context, _OF_SAMPLERS)):
        raise InputError("--fit compares no samplers, and prints tables alone.", f"Leave out {', '.join(given)}.")
    if fit and problem is BenchProblem.synthetic:
        raise InputError("--fit is of recorded trials; the synthetic problem has none.", "Take another --problem.")
    contenders = [Contender.parse(name) for name in samplers.split(",")]
    if len(set(contenders)) != len(contenders):
        raise InputError(f"--samplers names a sampler twice: {samplers}.")
    wanted = tuple(objectives.split(","))
    known = ("quality", "latency_ms", "long_latency_ms", "deployed_bytes")
    for objective in wanted:
        if objective not in known:
            raise InputError(f"--objectives: there is no objective {objective!r}.", closest(objective, known))
    if "quality" not in wanted or len(set(wanted)) != len(wanted):
        raise InputError("--objectives should hold quality, and nothing twice.")
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # studies in memory are of no interest
    console = output_console()
    searched: Problem
    if problem is not BenchProblem.synthetic:
        from search.bench.fidelity import fit_table, rung_table
        from search.bench.recorded import RecordedProblem

        searched = RecordedProblem(problem.value, wanted)
        if fit:
            console.print(fit_table(searched))
            console.print(rung_table(searched.recording))
            return
    else:
        searched = SyntheticProblem(wanted)
    progress = output_console(stderr=True)

    def tell(contender: Contender, seed: int) -> None:
        progress.print(f"{contender.label}: {seed + 1} of {seeds} studies", highlight=False)

    comparison = compare(searched, contenders, seeds, trials, workers, tell)
    if json or format is BenchFormat.json:
        typer.echo(comparison.as_json())
        return
    for table in comparison.tables():
        console.print(table)
