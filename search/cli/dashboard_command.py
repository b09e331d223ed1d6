"""The command that opens Optuna's own pages on a storage."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli.options import StorageOption


def dashboard(
    storage: StorageOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's open it to others.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Open optuna-dashboard on the storage: all studies, also one that is being searched. Ctrl-C ends it."""
    from search.storage import default_url, masked, open_storage, storage_exists
    from space.errors import InputError

    url = storage or default_url()
    if not storage_exists(url):
        raise InputError(f"There is no storage {masked(url)} yet.", "Start a study with `shoebox search STUDY`.")
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise InputError("optuna-dashboard is not installed.", "Install shoebox[dashboard].") from None
    opened = open_storage(url)
    typer.echo(f"{masked(url)} on http://{host}:{port}/ until Ctrl-C.")
    run_server(opened, host=host, port=port)
