"""The command that hands a study over to a Ray cluster."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from search.cli.options import (
    BundlesOption,
    DeviceOption,
    HoursOption,
    LabelOption,
    NameOption,
    ResumeOption,
    SamplerOption,
    SeedOption,
    SharedDataOption,
    StorageOption,
    TextOption,
    TrialsOption,
    WarmStartOption,
    WhereOption,
    overrides_of,
)


def submit(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="A shipped study (see `shoebox studies`) or FILE.yaml.")],
    address: Annotated[str, typer.Option(help="The cluster's dashboard, like http://head:8265.")],
    data: SharedDataOption = None,
    text: TextOption = None,
    label: LabelOption = None,
    where: WhereOption = None,
    trials: TrialsOption = None,
    hours: HoursOption = None,
    workers: Annotated[int | None, typer.Option(help="Trials at a time.", show_default="as many as fit")] = None,
    sampler: SamplerOption = None,
    seed: SeedOption = None,
    latency: Annotated[str | None, typer.Option(help="emulated or estimated.")] = None,
    device: DeviceOption = None,
    warm_start: WarmStartOption = None,
    resume: ResumeOption = False,
    name: NameOption = None,
    bundles: BundlesOption = None,
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
    from search.cli.running import stoppable
    from search.cluster import jobs

    job = jobs.submit(
        study,
        address,
        overrides=overrides_of(context),
        resume=resume,
        storage=storage,
        shared=shared,
        warm_start=warm_start or (),
    )
    typer.echo(f"Job {job.name} runs at {address}.")
    told = "RAY_AUTH_MODE=token " if job.asks_for_token else ""  # by itself Ray sends none
    for what, verb in (("Follow", "logs --follow"), ("Stop", "stop")):
        command = ["ray", "job", *verb.split(), "--address", address, job.name]
        typer.echo(f"{what} it with: {told}{shlex.join(command)}")
    if not wait:
        return
    with stoppable(lambda: f"Job {job.name} goes on; only its log is no longer shown."):
        succeeded = jobs.follow(address, job.name, lambda lines: typer.echo(lines, nl=False))
    if not succeeded:
        typer.echo(f"shoebox: job {job.name} failed", err=True)
        raise typer.Exit(1)
