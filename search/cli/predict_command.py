"""The command that runs a bundle on text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from runners.predict import Prediction
    from runners.tags import Tagged
    from runners.texts import Row


def predict(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    text: Annotated[str | None, typer.Argument(help="Text; without it, lines of standard input.")] = None,
    pair: Annotated[str | None, typer.Option(help="Second text of a sentence pair.")] = None,
    task: Annotated[str | None, typer.Option(help="Which task, of a bundle of several.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Words are what stands between spaces (tags).")] = False,
    entities: Annotated[bool, typer.Option("--entities", help="Print entities in place of words (tags).")] = False,
    input: Annotated[
        str | None, typer.Option("--input", "-i", help="FILE.jsonl, .csv, .tsv or .txt to read, - for standard input.")
    ] = None,
    input_format: Annotated[
        str | None, typer.Option(help="jsonl, csv, tsv or txt.", show_default="by the ending; of -, txt")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--text", help="Text column of the file; two with a comma for pairs.", show_default="the task's"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write (JSON lines).", show_default="standard output")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Texts that are run together.")] = 32,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines, with all probabilities.")] = False,
) -> None:
    """Run a bundle on a text, on lines of standard input, or on a file.

    On standard input, the texts of a pair stand on one line with a tab between. A bundle that tags words prints a line
    for each word, or entity, and an empty line after each text. A file is answered in JSON lines: each row as it was,
    with the answer under `prediction`. Files may be of any size.
    """
    if text is not None and (input is not None or columns is not None or input_format is not None):
        raise typer.BadParameter("give a text or --input, not both; --text and --input-format describe the input")
    if pair is not None and (input is not None or input_format is not None):
        raise typer.BadParameter("--pair goes with a text: in a file the second text has a column")
    from runners.predict import load_bundle
    from runners.texts import STANDARD, Row, answer_rows, layout_of, read_rows

    layout = layout_of(input or STANDARD, input_format)
    if columns is not None and layout == "txt":
        raise typer.BadParameter("--text is for jsonl, csv and tsv: lines of text have no columns")
    plain = not json and input is None and output is None and layout == "txt"
    if entities and not plain:
        raise typer.BadParameter("--entities is for printed text: JSON lines hold words and entities")
    loaded = load_bundle(bundle)
    tags = loaded.config.shape.per_token
    if tags and (task is not None or pair is not None):
        wrong = "knows one task only: leave --task out" if task is not None else "tags single texts: leave --pair out"
        raise typer.BadParameter(f"{bundle} {wrong}")
    if not tags and (tokens or entities):
        raise typer.BadParameter(f"{bundle} does not tag words: leave --tokens and --entities out")
    names = loaded.columns(task)
    if columns is not None:
        chosen = tuple(name.strip() for name in columns.split(","))
        if len(chosen) != len(names):
            raise typer.BadParameter(f"--text names {len(chosen)} columns, but {bundle} reads {len(names)}")
        names = chosen
    if text is not None:
        # What is wrong about --pair, too few texts or too many, the bundle itself says.
        given = (text,) if pair is None else (text, pair)
        rows = iter([Row(dict(zip(("text", "text2"), given, strict=False)), given, "the text")])
    elif pair is not None:  # all lines of standard input go with the same second text
        alone = read_rows(STANDARD, "txt", ("text",))
        rows = (Row({**row.values, "text2": pair}, (*row.texts, pair), row.place, row.last) for row in alone)
    else:
        names = ("text", "text2")[: len(names)] if layout == "txt" else names
        rows = read_rows(input or STANDARD, layout, names, words=tags)
    answers = answer_rows(loaded, rows, batch_size, task, tokens)
    _write(_lines(answers, plain, entities), output)


def _lines(answers: Iterable[tuple[Row, Prediction | Tagged]], plain: bool, entities: bool) -> Iterable[str]:
    from runners.tags import Tagged
    from runners.texts import as_json

    for row, answer in answers:
        if not plain:
            yield as_json(row.values, answer)
        elif isinstance(answer, Tagged):
            found = [(entity.type, entity.text, entity.score) for entity in answer.entities]
            words = zip(answer.words, answer.tags, answer.scores, strict=True)
            yield "".join(
                f"{first}\t{second}\t{score:.4f}\n" for first, second, score in (found if entities else words)
            )
        else:
            score = f"{answer.score:.4f}"
            yield score if answer.label is None else f"{answer.label}\t{score}"


def _write(lines: Iterable[str], output: Path | None) -> None:
    """Print lines, or write them to a file that appears when it is complete."""
    if output is None:
        for line in lines:
            typer.echo(line)
        return
    from search.output import new_file

    with new_file(output) as file:
        for line in lines:
            file.write(f"{line}\n".encode())
