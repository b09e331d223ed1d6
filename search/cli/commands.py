"""The commands. Every command imports what it needs itself, so that `--help` answers at once."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli.emulator_commands import emulator_app
from search.cli.messages import messages_on

if TYPE_CHECKING:
    from runners.predict import Bundle
    from runners.record import TrialRecord
    from search.study import Study

app = typer.Typer(
    name="shoebox",
    help="Search for BERT students that fit in 2 MB, as accurate and as fast on an ARM phone as they can be.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.add_typer(emulator_app, name="emulator")

StorageOption = Annotated[str | None, typer.Option(help="Storage URL of Optuna.", show_default="SQLite in ~/.shoebox")]
StudyArgument = Annotated[str, typer.Argument(help="Name of a study in the storage.")]


class Format(StrEnum):
    """How an answer is printed."""

    table = "table"
    json = "json"
    csv = "csv"


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib import metadata

    try:
        version = metadata.version("shoebox")
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    typer.echo(f"shoebox {version}")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@app.command()
def search(
    study: Annotated[str, typer.Argument(help="A shipped study (see `shoebox studies`) or FILE.yaml.")],
    data: Annotated[Path | None, typer.Option(help="Folder with train.* and validation.*.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Text column (of words: tokens); two with a comma for pairs.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Label column; of tagged words, that of the tags.")] = None,
    where: Annotated[str | None, typer.Option(help="Only rows with COLUMN=VALUE; several with commas.")] = None,
    trials: Annotated[int | None, typer.Option(help="Trained trials in total.")] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at a time.")] = None,
    sampler: Annotated[str | None, typer.Option(help="known-cost, tpe, nsga2, gp, random or qmc.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search.")] = None,
    latency: Annotated[str | None, typer.Option(help="emulated, native or estimated.")] = None,
    device: Annotated[str | None, typer.Option(help="Device profile, like cortex-a53.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped or killed study.")] = False,
    name: Annotated[str | None, typer.Option(help="Another name for the study.")] = None,
    storage: StorageOption = None,
) -> None:
    """Search a study: train students within its limits and show the front of the best."""
    from search.cli.tables import output_console

    console = output_console(stderr=True)
    overrides = {
        "name": name,
        "data": None if data is None else str(data.expanduser().absolute()),
        "text": text,
        "label": label,
        "where": where,
        "trials": trials,
        "workers": workers,
        "sampler": sampler,
        "seed": seed,
        "latency": latency,
        "device": device,
    }
    # A terminated search ends as cleanly as one stopped by Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with console.status("Loading ...") if console.is_terminal else contextlib.nullcontext():
            from search.progress import display_for
            from search.run import run_study
        with messages_on(console):
            found = run_study(
                study,
                overrides=overrides,
                resume=resume,
                storage=storage,
                display=display_for(console),
            )
    except KeyboardInterrupt:
        typer.echo(_how_to_go_on(study, overrides, storage), err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    failed = found.trials("failed")
    if failed and not found.trials("finished"):
        first = failed[0]
        typer.echo(f"shoebox: all {len(failed)} trials failed; trial {first.number}: {first.error}", err=True)
        raise typer.Exit(1)
    _print_front(found)
    best = found.best()
    typer.echo(f"Best bundle: trial {best.trial}, {best.bundle}")
    copy = ["shoebox", "export", found.name, *_storage_option(storage), "--best", "-o", "DIR"]
    typer.echo(f"Copy it with: {shlex.join(copy)}")


@app.command()
def pareto(
    study: StudyArgument,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
    storage: StorageOption = None,
) -> None:
    """The front of a study: finished trials that keep every limit and that no other trial beats."""
    from search.cli.tables import as_csv, as_json
    from search.study import load_study

    found = load_study(study, storage)
    if format is Format.table:
        _print_front(found)
    else:
        front = _front(found)
        typer.echo(as_json(found, front) if format is Format.json else as_csv(front))


@app.command()
def export(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    best: Annotated[bool, typer.Option("--best", help="The trial of the highest quality.")] = False,
    trial: Annotated[int | None, typer.Option(help="The trial of this number.")] = None,
    storage: StorageOption = None,
) -> None:
    """Copy a student's bundle into a new folder."""
    if best == (trial is not None):
        raise typer.BadParameter("give either --best or --trial N")
    from search.export import export_bundle
    from search.study import load_study

    found = load_study(study, storage)
    record = found.best() if trial is None else found.trial(trial).record
    if record is None:
        from space.errors import InputError

        state = found.trial(trial or 0).state
        raise InputError(f"Trial {trial} of study {study!r} has no bundle: it is {state}.")
    typer.echo(f"Trial {record.trial}: {export_bundle(record, output)}")


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    text: Annotated[str | None, typer.Argument(help="Text; without it, lines of standard input.")] = None,
    pair: Annotated[str | None, typer.Option(help="Second text of a sentence pair.")] = None,
    task: Annotated[str | None, typer.Option(help="Which task, of a bundle of several.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Words are what stands between spaces (tags).")] = False,
    entities: Annotated[bool, typer.Option("--entities", help="Print entities in place of words (tags).")] = False,
) -> None:
    """Run a bundle on text. On standard input, the texts of a pair stand on one line with a tab between.

    A bundle that tags words prints a line for each word, or entity, and an empty line after each text.
    """
    from runners.predict import load_bundle

    loaded = load_bundle(bundle)
    texts = [text] if text is not None else [line.rstrip("\n") for line in sys.stdin]
    if loaded.config.shape.per_token:
        if task is not None:
            raise typer.BadParameter(f"{bundle} knows one task only: leave --task out")
        _print_tags(loaded, texts, pair, tokens, entities)
        return
    if tokens or entities:
        raise typer.BadParameter(f"{bundle} does not tag words: leave --tokens and --entities out")
    pairs = None if pair is None else [pair] * len(texts)
    if text is None and pair is None and any("\t" in line for line in texts):
        split = [line.partition("\t") for line in texts]
        texts, pairs = [first for first, _, _ in split], [second for _, _, second in split]
    for prediction in loaded.predict(texts, pairs, task):
        score = f"{prediction.score:.4f}"
        typer.echo(score if prediction.label is None else f"{prediction.label}\t{score}")


@app.command()
def studies(storage: StorageOption = None) -> None:
    """The studies that come with Shoebox, and those in the storage."""
    from search.cli.tables import output_console, studies_table
    from search.study import list_studies
    from search.study_file import shipped_studies
    from search.validation import parse_yaml

    console = output_console()
    console.print("Shipped:", highlight=False)
    for name, content in shipped_studies().items():
        description = parse_yaml(content, name).get("description", "")
        console.print(f"  {name:<12} {description}", markup=False, highlight=False, soft_wrap=True)
    found = list_studies(storage)
    if found:
        console.print("In the storage:", highlight=False)
        console.print(studies_table(found))
    else:
        console.print("None in the storage yet.", highlight=False)


@app.command()
def doctor(storage: StorageOption = None) -> None:
    """Say what a search would find on this machine; exit code 1 if something would keep it from running."""
    from search.cli.tables import output_console
    from search.doctor import examine

    console, problems = output_console(), 0
    for finding in examine(storage):
        problems += finding.state == "problem"
        line = f"{finding.state:<8} {finding.subject:<19} {finding.text}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)


def _print_tags(bundle: Bundle, texts: list[str], pair: str | None, tokens: bool, entities: bool) -> None:
    if pair is not None:
        raise typer.BadParameter(f"{bundle.folder} tags single texts: leave --pair out")
    for found in bundle.tag_words([text.split() for text in texts]) if tokens else bundle.tag(texts):
        rows = [(entity.type, entity.text, entity.score) for entity in found.entities]
        for first, second, score in rows if entities else zip(found.words, found.tags, found.scores, strict=True):
            typer.echo(f"{first}\t{second}\t{score:.4f}")
        typer.echo()


def _front(study: Study) -> list[TrialRecord]:
    front = study.pareto()
    if not front:
        from space.errors import InputError

        raise InputError(f"Study {study.name!r} has no finished trial that keeps its limits yet.")
    return front


def _print_front(study: Study) -> None:
    from search.cli.tables import front_table, output_console

    front = _front(study)
    console = output_console()
    table, remarks = front_table(study, front)
    console.print(table)
    for remark in remarks:
        console.print(remark, highlight=False)
    console.print(f"Hypervolume: {study.hypervolume():.4g}", highlight=False)


def _how_to_go_on(study: str, overrides: dict[str, Any], storage: str | None) -> str:
    """What to do after a stopped search: resume it if it is in the storage, else start it again."""
    from search.study import load_study
    from search.study_file import load_study_file
    from space.errors import InputError

    try:
        load_study(load_study_file(study, overrides).name, storage)
    except InputError:
        return "Stopped before the first trial; run the same command again (a finished teacher is kept)."
    name = ["--name", overrides["name"]] if overrides["name"] else []
    again = shlex.join(["shoebox", "search", study, *name, *_storage_option(storage), "--resume"])
    return f"Stopped; what has finished is kept. Resume with: {again}"


def _storage_option(storage: str | None) -> list[str]:
    if storage is None:
        return []
    from search.storage import masked

    return ["--storage", masked(storage)]
