"""The command that runs a bundle on text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from runners.predict import Bundle


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


def _print_tags(bundle: Bundle, texts: list[str], pair: str | None, tokens: bool, entities: bool) -> None:
    if pair is not None:
        raise typer.BadParameter(f"{bundle.folder} tags single texts: leave --pair out")
    for found in bundle.tag_words([text.split() for text in texts]) if tokens else bundle.tag(texts):
        rows = [(entity.type, entity.text, entity.score) for entity in found.entities]
        for first, second, score in rows if entities else zip(found.words, found.tags, found.scores, strict=True):
            typer.echo(f"{first}\t{second}\t{score:.4f}")
        typer.echo()
