"""Commands about Ray clusters."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from search.cli.examples import epilog
from search.cli.options import (
    HoursOption,
    LabelOption,
    NameOption,
    ResumeOption,
    SharedDataOption,
    TextOption,
    TrialsOption,
    WhereOption,
    given_of,
    overrides_of,
)

cluster_app = typer.Typer(help="Ray clusters for a study.", no_args_is_help=True)


_OF_RAYJOBS = ("image", "hosts", "memory", "claim", "secret")  # options without a meaning for a script


class Kind(StrEnum):
    rayjob = "rayjob"
    ray_start = "ray-start"


@cluster_app.callback()
def _commands() -> None: ...


@cluster_app.command(epilog=epilog("cluster manifest"))
def manifest(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="A shipped study (see `shoebox studies`) or FILE.yaml.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    kind: Annotated[Kind, typer.Option(help="A RayJob of KubeRay, or a script with `ray start`.")] = Kind.rayjob,
    image: Annotated[str, typer.Option(help="Container image with Shoebox (rayjob).")] = "",
    hosts: Annotated[int, typer.Option(min=1, help="Hosts that run trials (rayjob).")] = 2,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs of each.")] = 4,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each.")] = 0,
    memory: Annotated[str, typer.Option(help="Memory of each (rayjob).")] = "8Gi",
    shared: Annotated[str, typer.Option(help="Folder that all hosts share.")] = "/shoebox",
    claim: Annotated[
        str | None, typer.Option(help="PersistentVolumeClaim of that folder (rayjob).", show_default="a new one")
    ] = None,
    secret: Annotated[str, typer.Option(help="Secret whose key url is the storage's (rayjob).")] = "shoebox-storage",
    data: SharedDataOption = None,
    text: TextOption = None,
    label: LabelOption = None,
    where: WhereOption = None,
    name: NameOption = None,
    trials: TrialsOption = None,
    hours: HoursOption = None,
    resume: ResumeOption = False,
) -> None:
    """Write what starts a cluster and searches a study on it."""
    from search.cluster.jobs import sent_file
    from search.cluster.manifest import Hosts, ray_start, rayjob
    from space.errors import InputError
    from space.paths import expanded

    if kind is Kind.ray_start and (given := given_of(context, _OF_RAYJOBS)):
        raise InputError(
            f"--kind ray-start writes a script that any hosts run, which has no use for {', '.join(given)}.",
            "Leave that out.",
        )
    overrides = overrides_of(context)
    file = sent_file(study, overrides, resume)
    described = Hosts(image, hosts, cpus, gpus, memory, shared, claim, secret)
    write = rayjob if kind is Kind.rayjob else ray_start
    text = write(file, described, resume, overrides)
    try:
        with expanded(output).open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        if expanded(output).is_dir():
            raise InputError(f"{output} is a folder.", "Name a file to write, in it or elsewhere.") from None
        raise InputError(f"File {output} exists already.", "Choose a new one, or remove that one.") from None
    how = ["kubectl", "apply", "-f"] if kind is Kind.rayjob else ["bash"]
    use = shlex.join([*how, str(output)])
    typer.echo(f"Wrote {output}; its first lines say what it needs. Use it with: {use}")
