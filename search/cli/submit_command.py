"""The command that hands a study over to a Ray cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import StorageOption


def submit(
    study: Annotated[str, typer.Argument(help="A shipped study (see `shoebox studies`) or FILE.yaml.")],
    address: Annotated[str, typer.Option(help="The cluster's dashboard, like http://head:8265.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with train.* and validation.*, as all hosts see it.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trained trials in total.")] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at a time.", show_default="as many as fit")] = None,
    sampler: Annotated[str | None, typer.Option(help="known-cost, tpe, nsga2, gp, random or qmc.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search.")] = None,
    latency: Annotated[str | None, typer.Option(help="emulated or estimated.")] = None,
    device: Annotated[str | None, typer.Option(help="Device profile, like cortex-a53.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped or killed study.")] = False,
    name: Annotated[str | None, typer.Option(help="Another name for the study.")] = None,
    bundles: Annotated[
        str | None, typer.Option(help="URL for the bundles, like s3://bucket/folder.", show_default="SHOEBOX_HOME")
    ] = None,
    storage: StorageOption = None,
    shared: Annotated[
        str | None, typer.Option(help="Folder that all hosts share, for results and cache.", show_default="the hosts'")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show the log until the job ends.")] = False,
) -> None:
    """Search a study on a Ray cluster, as a job that runs on without this machine.

    Only the study file is sent. The storage's URL goes by the job's environment, which those who may look at the
    cluster's dashboard can read: a password is safer in the hosts' own SHOEBOX_STORAGE or a ~/.pgpass.
    """
    from search.cluster import jobs

    overrides = {
        "name": name,
        "data": data,
        "trials": trials,
        "workers": workers,
        "sampler": sampler,
        "seed": seed,
        "latency": latency,
        "device": device,
        "bundles": bundles,
    }
    job = jobs.submit(study, address, overrides=overrides, resume=resume, storage=storage, shared=shared)
    typer.echo(f"Job {job.name} runs at {address}.")
    if wait:
        if not jobs.follow(address, job.name, lambda lines: typer.echo(lines, nl=False)):
            typer.echo(f"shoebox: job {job.name} failed", err=True)
            raise typer.Exit(1)
        return
    for what, verb in (("Follow", "logs --follow"), ("Stop", "stop")):
        command = ["ray", "job", *verb.split(), "--address", address, job.name]
        told = "RAY_AUTH_MODE=token " if job.asks_for_token else ""  # by itself Ray sends none
        typer.echo(f"{what} it with: {told}{shlex.join(command)}")
