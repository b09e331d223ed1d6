"""The command that rounds a trained student to other bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.options import JsonOption, StorageOption

if TYPE_CHECKING:
    from runners.record import TrialRecord
    from space.config import Clipping


def quantize(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    bits: Annotated[int | None, typer.Option(help="2, 4 or 8 bits for all weights.")] = None,
    embedding_bits: Annotated[int | None, typer.Option(help="For the embeddings.")] = None,
    attention_bits: Annotated[int | None, typer.Option(help="For the attention of all layers.")] = None,
    ffn_bits: Annotated[int | None, typer.Option(help="For the feed-forward networks of all layers.")] = None,
    clipping: Annotated[str, typer.Option(help="How scales are chosen: auto, searched or none.")] = "auto",
    study: Annotated[
        str | None,
        typer.Option(help="Whose task, device and limits judge it.", show_default="the study that made the bundle"),
    ] = None,
    json: JsonOption = False,
    storage: StorageOption = None,
) -> None:
    """Round a bundle's student to other bits, without training, and measure what is left of its quality.

    The study that made the bundle says what to judge it by, so it must still be in the storage; --study names it where
    it has another name by now.
    """
    from objectives.limits import broken, constraint_values
    from runners.predict import read_config
    from runners.requantize import bit_fields, requantize
    from runners.task import load_task
    from search.study import load_study, study_of
    from space.errors import InputError

    choices: dict[str, Clipping] = {"auto": "auto", "searched": "searched", "none": "none"}
    if clipping not in choices:
        raise InputError(f"--clipping: there is no {clipping!r}.", f"Known: {', '.join(choices)}.")
    named = {"embedding_bits": embedding_bits, "attention_bits": attention_bits, "ffn_bits": ffn_bits}
    given = {name: value for name, value in named.items() if value is not None}
    if bits is None and not given:
        raise InputError("No bits are given.", "Give --bits, or any of --embedding-bits, --attention-bits, --ffn-bits.")
    config = read_config(bundle)
    if bits is not None:
        given = {**dict.fromkeys(bit_fields(config.student), bits), **given}
    judge = load_study(study or study_of(bundle) or config.study, storage)
    plan = judge.file.plan()
    tasks = {name: load_task(task.task) for name, task in plan.task_plans.items()}
    record = requantize(bundle, output, tasks, plan.device, given, choices[clipping])
    if json:
        typer.echo(record.model_dump_json(indent=2))
    else:
        _print(output, bundle, record)
    typer.echo(f"Judged by study {judge.name}.", err=json)
    if not record.tasks and "teacher_quality" not in record.metrics:
        note = "These are other texts than the bundle was judged by: the teacher's quality on them is not known."
        typer.echo(note, err=True)
    if over := broken(constraint_values(plan.limits, record.costs())):
        typer.echo(f"This breaks a limit of the study: {', '.join(over)}.", err=True)


def _print(output: Path, bundle: Path, record: TrialRecord) -> None:
    from runners.record import SOURCE_QUALITY

    typer.echo(
        f"{output}: {record.metric} {record.quality:.4f} ({record.metrics['quality_before_quantization']:.4f} in full "
        f"precision, {record.metrics[SOURCE_QUALITY]:.4f} in {bundle}), {record.deployed_bytes:,} bytes, "
        f"{record.latency.milliseconds:.2f} ms"
    )
