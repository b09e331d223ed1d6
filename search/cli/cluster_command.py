"""Commands about Ray clusters."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from search.cli.examples import epilog

cluster_app = typer.Typer(help="Ray clusters for a study.", no_args_is_help=True)


class Kind(StrEnum):
    rayjob = "rayjob"
    ray_start = "ray-start"


@cluster_app.callback()
def _commands() -> None: ...


@cluster_app.command(epilog=epilog("cluster manifest"))
def manifest(
    study: Annotated[str, typer.Argument(help="A shipped study (see `shoebox studies`) or FILE.yaml.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    kind: Annotated[Kind, typer.Option(help="A RayJob of KubeRay, or a script with `ray start`.")] = Kind.rayjob,
    image: Annotated[str, typer.Option(help="Container image with Shoebox (rayjob).")] = "",
    hosts: Annotated[int, typer.Option(min=1, help="Hosts that run trials.")] = 2,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs of each.")] = 4,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each.")] = 0,
    memory: Annotated[str, typer.Option(help="Memory of each.")] = "8Gi",
    shared: Annotated[str, typer.Option(help="Folder that all hosts share.")] = "/shoebox",
    claim: Annotated[
        str | None, typer.Option(help="PersistentVolumeClaim of that folder.", show_default="a new one")
    ] = None,
    secret: Annotated[str, typer.Option(help="Secret whose key url is the storage's.")] = "shoebox-storage",
    data: Annotated[
        Path | None, typer.Option(help="Folder with train.* and validation.*, as all hosts see it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Another name for the study.")] = None,
    trials: Annotated[int | None, typer.Option(help="Trained trials in total.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped or killed study.")] = False,
) -> None:
    """Write what starts a cluster and searches a study on it."""
    from search.cluster.jobs import sent_file
    from search.cluster.manifest import Hosts, ray_start, rayjob
    from space.errors import InputError
    from space.paths import expanded

    file = sent_file(study, {"name": name, "data": data, "trials": trials}, resume)
    described = Hosts(image, hosts, cpus, gpus, memory, shared, claim, secret)
    text = rayjob(file, described, resume) if kind is Kind.rayjob else ray_start(file, described, resume)
    try:
        with expanded(output).open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        raise InputError(f"File {output} exists already.", "Choose a new one, or remove that one.") from None
    how = f"kubectl apply -f {output}" if kind is Kind.rayjob else f"bash {output}"
    typer.echo(f"Wrote {output}; its first lines say what it needs. Use it with: {how}")
