"""The commands `shoebox emulator ...`. Every command imports what it needs itself, so that `--help` answers at once."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from search.cli.completion import complete_device
from search.cli.examples import epilog
from search.cli.options import JsonOption

emulator_app = typer.Typer(help="The ARM emulator that times students.", no_args_is_help=True)


@emulator_app.command(epilog=epilog("emulator install"))
def install() -> None:
    """Set the emulator up, without root."""
    from runners.emulator import install

    typer.echo(f"Ready in {install(lambda line: typer.echo(line, err=True)).folder}")


@emulator_app.command(epilog=epilog("emulator check"))
def check(json: JsonOption = False) -> None:
    """Say what is installed, and time a small model with it."""
    if json:
        from runners.emulator.check import check_all

        readings = check_all(lambda line: typer.echo(line, err=True))
        typer.echo(json_format.dumps([reading.model_dump(mode="json") for reading in readings], indent=2))
        return
    from runners.emulator import check

    check(typer.echo)


@emulator_app.command(epilog=epilog("emulator calibrate"))
def calibrate(
    measured: Annotated[Path, typer.Argument(help="CSV file with the columns model, tokens and milliseconds.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Profile to write, a .yaml file.")],
    device: Annotated[
        str, typer.Option(help="Profile to start from, like cortex-a53.", autocompletion=complete_device)
    ] = "cortex-a53",
) -> None:
    """Fit the guesses of a device profile to times measured on the device.

    Columns of the file: model (an ONNX file or the folder of a bundle, relative to the file), tokens, milliseconds,
    and if you like repeats.
    """
    from runners.emulator.calibrate import calibrate_device

    calibrate_device(measured, device, output, typer.echo)
