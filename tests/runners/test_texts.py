"""Rows of files, and answers to them."""

from __future__ import annotations

import csv
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.bundles import write_bundle
from helpers.pipes import pipe

from runners.predict import Bundle, load_bundle
from runners.texts import WINDOW, Layout, Row, answer_rows, as_json, layout_of, read_rows
from space import InputError


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_bundle(tmp_path_factory.mktemp("bundles") / "texts", "texts"))


def read(path: Path, content: str, columns: tuple[str, ...] = ("review",), **more: Any) -> list[Row]:
    path.write_bytes(content.encode())
    return list(read_rows(str(path), layout_of(str(path), None), columns, **more))


def test_rows_of_each_layout(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.jsonl", '\ufeff{"review": "a", "id": 1}\n\n{"id": 2, "review": ""}\n')
    assert [(row.values, row.texts) for row in rows] == [
        ({"review": "a", "id": 1}, ("a",)),
        ({"id": 2, "review": ""}, ("",)),
    ]
    assert rows[1].place.endswith("a.jsonl, line 3")
    rows = read(tmp_path / "a.csv", 'id,review\r\n1,"two\r\nlines, one cell"\r\n2,NA\r\n')
    assert [row.texts[0] for row in rows] == ["two\r\nlines, one cell", "NA"]
    assert [row.place.rsplit(" ", 1)[1] for row in rows] == ["2", "4"]
    assert read(tmp_path / "a.tsv", "a\tb\nx, y\tz\n", ("a", "b"))[0].texts == ("x, y", "z")
    assert read(tmp_path / "a.txt", "x\ty\n", ("text", "text2"))[0].values == {"text": "x", "text2": "y"}
    assert read(tmp_path / "b.jsonl", '{"tokens": ["a", "b"]}\n', ("tokens",), words=True)[0].texts == (["a", "b"],)


def test_an_empty_line_is_a_text_where_there_is_one_column(tmp_path: Path) -> None:
    for name in ("a.csv", "a.tsv"):
        rows = read(tmp_path / name, "review\na\n\nb\r\n\r\n")
        assert [row.values for row in rows] == [{"review": text} for text in ("a", "", "b", "")]
        assert rows[1].place.endswith("line 3")
    assert [row.texts for row in read(tmp_path / "b.csv", "review,id\na,1\n\nb,2\n")] == [("a",), ("b",)]


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(
    "cell",
    ['"Great" film', 'a "great" film', '"a ""great"" film"', '"a\tb"', '"two\nlines"', '"', '"open', "long " * 40_000],
)
def test_cells_are_read_as_pandas_reads_them(tmp_path: Path, cell: str, end: str) -> None:
    path, content = tmp_path / "a.tsv", f"id\treview\n1\t{cell}{end}"
    path.write_text(content)
    try:
        expected = pd.read_csv(path, sep="\t")["review"].tolist()
    except pd.errors.ParserError:
        with pytest.raises(InputError, match="line 2 opens a quote that is not closed"):
            read(path, content)
    else:
        assert [row.texts[0] for row in read(path, content)] == expected


def test_a_cell_may_be_long_but_not_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = csv.field_size_limit(10)
    try:
        monkeypatch.setattr("runners.texts.LONGEST_CELL", 20)
        assert read(tmp_path / "a.csv", f"review\n{'a' * 20}\n")[0].texts == ("a" * 20,)
        with pytest.raises(
            InputError, match=r"after line 2: field larger than field limit \(20\)\. Is a quote left open"
        ):
            read(tmp_path / "a.csv", f'review\na\n"{"a" * 21}\n')
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"review": "a"}\n{"review": \n', "a.jsonl, line 2 is not JSON: Expecting value."),
        ("a.jsonl", "[1]\n", "line 1 is no JSON object, but [1]."),
        ("a.jsonl", '{"text": "a"}\n', "line 1 has no 'review'; it has text. Name the text columns by --text."),
        ("a.jsonl", '{"review": null}\n', "line 1: 'review' should be text, not null."),
        ("a.jsonl", '{"review": ["a"]}\n', """line 1: 'review' should be text, not ["a"]."""),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", '{"review": "a \\ud800"}\n', "line 1: 'review' is not valid Unicode: character 3 is U+D800."),
        ("a.jsonl", '{"review": "a"}\n{"review": "a", "x": [NaN]}\n', "a.jsonl, line 2 is not JSON: NaN. Write null"),
        ("a.jsonl", '{"review": "a", "x": -Infinity}\n', "line 1 is not JSON: -Infinity."),
        ("a.jsonl", '{"review": "a", "x": 1e999}\n', "line 1 has a number that is too large: 1e999."),
        ("a.csv", "", "a.csv is empty. The first line names the columns."),
        ("a.csv", "text,id\na,1\n", "a.csv has no column 'review'; it has text, id."),
        ("a.csv", "review,id\na,1\nb\n", "a.csv, line 3 has 1 cells, but there are 2 columns."),
        ("a.csv", 'review,id\na,1\n"b', "a.csv, line 3 opens a quote that is not closed. End the cell with a quote."),
        ("a.tsv", 'review\na\n"', "a.tsv, line 3 opens a quote that is not closed."),
        ("a.csv", 'review\na\n"b\nc\n', "a.csv, line 3 opens a quote that is not closed."),
        ("a.csv", '"review,id\na,1\n', "a.csv, line 1 opens a quote that is not closed."),
        ("a.tsv", 'review\tid\nx\t0\n"a\t1\nb\t2\nc"\t3\nd\t4\n', "a.tsv, line 3: a cell begins with a quote and runs"),
        ("a.csv", "review,x,x\na,1,2\n", "a.csv, line 1 names 'x' twice: one of the two would be lost."),
        ("a.jsonl", '{"review": "a", "review": "b"}\n', "a.jsonl, line 1 names 'review' twice"),
        ("a.jsonl", '{"review": "a"}\n{"review": "a", "x": {"y": 1, "y": 2}}\n', "a.jsonl, line 2 names 'y' twice"),
        ("a.csv", "review,prediction\na,b\n", "a.csv, line 2 has 'prediction', where the answer will stand."),
        ("a.jsonl", '{"review": "a", "prediction": 1}\n', "a.jsonl, line 1 has 'prediction', where the answer"),
        ("a.txt", "a\tb\n", "a.txt, line 1 has a tab, but the bundle judges single texts."),
        ("a.xlsx", "a\n", "a.xlsx has an unknown ending."),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read(tmp_path / name, content)
    assert message in str(raised.value)


def test_a_file_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_bytes(b"a\n")
    assert [row.texts for row in read_rows("~/a.txt", "txt", ("text",))] == [("a",)]


def test_text_that_is_not_utf8_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\nb\xff\n")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        list(read_rows(str(tmp_path / "a.txt"), "txt", ("text",)))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        list(read_rows(str(tmp_path / "b.txt"), "txt", ("text",)))
    with pytest.raises(InputError, match="no layout 'xml'"):
        layout_of("-", "xml")


@pytest.mark.parametrize(
    ("layout", "content", "values"),
    [
        ("txt", "caf\u00e9\n", {"review": "caf\u00e9"}),
        ("jsonl", '{"review": "a"}\n', {"review": "a"}),
        ("csv", 'review,id\r\n"a\r\nb",1\r\n', {"review": "a\r\nb", "id": "1"}),
    ],
)
def test_standard_input_is_read_as_files_are(
    layout: Layout, content: str, values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for mark in ("", "\ufeff"):
        pipe(monkeypatch, (mark + content).encode(), encoding="ascii", errors="surrogateescape")  # as with LC_ALL=C
        assert [row.values for row in read_rows("-", layout, ("review",))] == [values]
        assert not sys.stdin.closed
    pipe(monkeypatch, b"caf\xe9\n", encoding="ascii", errors="surrogateescape")
    with pytest.raises(InputError, match="standard input is not UTF-8 text"):
        list(read_rows("-", "txt", ("review",)))


def test_text_that_is_not_unicode_is_named(texts: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Text 2 is not valid Unicode: character 4 is U\+DCE9\."):
        texts.predict(["a", "caf\udce9"])
    pairs, tags = (load_bundle(write_bundle(tmp_path / kind, kind)) for kind in ("pairs", "tags"))
    with pytest.raises(InputError, match="Second text 1 is not valid Unicode"):
        pairs.predict(["a"], ["\ud800"])
    with pytest.raises(InputError, match="Text 1 is not valid Unicode"):
        tags.tag(["\ud800"])
    with pytest.raises(InputError, match="A word of text 2 is not valid Unicode"):
        tags.tag_words([["ada"], ["met", "\ud800"]])
    with pytest.raises(InputError, match="line 1: 'tokens' is not valid Unicode"):
        read(tmp_path / "a.jsonl", r'{"tokens": ["a", "\ud800"]}', ("tokens",), words=True)
    row = read(tmp_path / "b.jsonl", r'{"review": "a film", "id": "\ud800"}')[0]
    line = as_json(row.values, texts.predict(["a film"])[0])
    assert json.loads(line.encode())["id"] == "\ud800"  # a column that is not read stays as it was


def test_answers_keep_the_order_and_do_not_depend_on_the_batch(texts: Bundle) -> None:
    given = [" ".join(["the film was great"] * (1 + 7 * index % 5)) + f" {index % 3}" for index in range(150)]

    def ask(size: int) -> list[float]:
        rows = (Row({"n": n}, (text,), "") for n, text in enumerate(given))
        found = list(answer_rows(texts, rows, size))
        assert [row.values["n"] for row, _ in found] == list(range(150))
        return [answer.probabilities["good"] for _, answer in found]  # type: ignore[union-attr]

    alone = [texts.predict([text])[0].probabilities["good"] for text in given[:20]]
    assert ask(4)[:20] == pytest.approx(alone, abs=1e-4)
    assert ask(1) == pytest.approx(ask(64), abs=1e-4)
    assert max(alone) - min(alone) > 1e-3


@pytest.mark.parametrize("layout", ["txt", "jsonl", "csv"])
def test_what_a_pipe_brought_is_answered_before_more_is_waited_for(
    texts: Bundle, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"film {number}" for number in range(2000)]
    lines = [f"{json.dumps({'text': row}) if layout == 'jsonl' else row}\n" for row in rows]
    reading, writing = os.pipe()
    with open(reading) as stdin, open(writing, "w", encoding="utf-8") as writer:
        monkeypatch.setattr("sys.stdin", stdin)
        answers = answer_rows(texts, read_rows("-", layout, ("text",)), 4)
        writer.write("text\n" * (layout == "csv") + lines[0] + lines[1] + lines[2][:3])  # a line is on its way
        writer.flush()
        late = threading.Timer(20, writer.close)  # else who waits for the end would do so for ever
        late.start()
        found = [next(answers), next(answers)]
        late.cancel()
        assert not writer.closed
        writer.write(lines[2][3:] + "".join(lines[3:]))
        writer.close()
        found += answers
    assert [row.texts[0] for row, _ in found] == rows


def test_no_more_than_a_window_is_held(texts: Bundle) -> None:
    taken = 0

    def endless() -> Iterator[Row]:
        nonlocal taken
        while True:
            taken += 1
            yield Row({"text": "a film"}, ("a film",), "")

    answers = answer_rows(texts, endless(), 2)
    for _ in range(3 * 2 * WINDOW):
        next(answers)
    assert taken == 3 * 2 * WINDOW


@pytest.mark.parametrize("kind", ["pairs", "tags", "several"])
def test_other_bundles(kind: str, tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / kind, kind))
    task = "gap" if kind == "several" else None
    assert bundle.columns(task) == (("tokens",) if kind == "tags" else ("first", "second"))
    rows = {
        "tags": [Row({}, ("ada met a film.",), ""), Row({}, (["ada", "met", "film"],), ""), Row({}, ("",), "")],
    }.get(kind, [Row({}, ("a film", "a dull film"), ""), Row({}, ("a", "b"), "")])
    found = [json.loads(as_json(row.values, answer)) for row, answer in answer_rows(bundle, iter(rows), 2, task)]
    if kind == "tags":
        assert [each["prediction"]["words"] for each in found] == [
            ["ada", "met", "a", "film", "."],
            ["ada", "met", "film"],
            [],
        ]
    else:
        expected = bundle.predict(["a film", "a"], ["a dull film", "b"], task)
        assert [each["prediction"]["score"] for each in found] == pytest.approx([e.score for e in expected], abs=1e-4)
        assert found[0]["prediction"]["label"] is None


def test_the_command_reads_and_writes_files(
    texts: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from search.cli import main

    def shoebox(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["shoebox", "predict", str(texts.folder), *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("id,review,comment\n1,a dull film,x\n2,the film was great,y\n")
    assert shoebox("--input", str(source), "--output", str(target)) == (0, "", "")
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["id"], row["comment"]) for row in rows] == [("1", "x"), ("2", "y")]
    assert {row["prediction"]["label"] for row in rows} <= {"bad", "good"}
    other = [json.loads(line) for line in shoebox("-i", str(source), "--text", "comment")[1].splitlines()]
    assert other[0]["prediction"] != rows[0]["prediction"]
    one = json.loads(shoebox("a dull film", "--json")[1])
    assert one["prediction"]["probabilities"] == pytest.approx(rows[0]["prediction"]["probabilities"], abs=1e-4)
    pipe(monkeypatch, b'{"review": "a dull film"}\n')
    streamed = json.loads(shoebox("--input", "-", "--input-format", "jsonl")[1])
    assert streamed["prediction"]["score"] == pytest.approx(rows[0]["prediction"]["score"], abs=1e-4)
    pipe(monkeypatch, b"a dull film\nthe film was great\n")
    assert [line.split("\t")[0] for line in shoebox()[1].splitlines()] == [r["prediction"]["label"] for r in rows]

    said = "Text 1 is not valid Unicode: character 4 is U+DCE9."
    code, out, err = shoebox("caf\udce9")  # what Python makes of an argument in Latin-1
    assert (code, out, err.startswith(f"shoebox: {said}")) == (2, "", True)
    source.write_text("id,review\n1,a\n2\n")
    code, out, err = shoebox("--input", str(source), "--output", str(target))
    assert (code, out) == (2, "")
    assert err == f"shoebox: {source}, line 3 has 1 cells, but there are 2 columns.\n"
    assert len(target.read_text().splitlines()) == 2  # as it was
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.jsonl"]
    read = ("--input", str(source))
    for wrong in (("a text", *read), (*read, "--text", "a,b"), (*read, "--pair", "x"), (*read, "--tokens")):
        assert shoebox(*wrong)[0] == 2
    pipe(monkeypatch, b"a dull film\n")
    code, out, err = shoebox("--text", "comment")
    assert (code, out, "--text is for jsonl, csv and tsv" in err) == (2, "", True)


def test_a_standard_input_that_is_closed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)  # as Python starts under `<&-`
    with pytest.raises(InputError, match=r"Standard input is closed\."):
        next(read_rows("-", "txt", ["text"]))
