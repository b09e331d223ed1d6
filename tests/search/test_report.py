"""Reports of studies: what they tell, that they are whole, and that a browser shows them without an error."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as graph_objects
import pytest
from helpers.chromium import browser, find_chromium
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from objectives.latency import LatencyModel, load_profile
from runners.bundle import BundleConfig, write_model
from search.report import Report, as_markdown, as_page, gather
from search.report import figures as drawn
from search.report.gather import progress_of, spread_evenly, without_secrets
from search.report.importance import _importance, features, importances
from search.report.page import embedded_json, render_markdown
from search.report.shares import START, bytes_by_part, milliseconds_by_operator, without_small
from search.report.traits import _architecture, bits_of_modules
from search.run import run_study
from search.states import ERROR, FAILED_AFTER
from search.storage import find_study, open_storage
from search.study import REFERENCE_COSTS, STUDY_FILE, load_study, reference_in_words
from space import JointSpace, SpaceSpec, TaskShape, Vocabulary, deployed_bytes
from space.dimensions import draw_from
from space.families import build_student
from space.vocabulary import SPECIAL_TOKENS

Shoebox = Callable[..., subprocess.CompletedProcess[str]]
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>"


MADE: dict[str, Report] = {}


@pytest.fixture
def report(
    make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Report:
    """Of a study with failures, whose texts would all run scripts, and whose bundles hold untrained students.

    It is made once; each test looks at it where it lies.
    """
    monkeypatch.setenv("SHOEBOX_HOME", str(tmp_path_factory.getbasetemp() / "home-of-reports"))
    if "report" not in MADE:
        monkeypatch.setenv("SHOEBOX_TOY_FAIL", "2,3,5,6")
        engine = make_engine(trials=14)
        told = engine.file.model_dump(mode="json")
        engine.study.set_user_attr(STUDY_FILE, {**told, "description": EVIL})
        run = engine.work

        def work(assignment: Any) -> None:
            run(assignment)
            storage = engine.study._storage
            if "error" in storage.get_trial(assignment.trial_id).user_attrs:
                error = f"{EVIL} postgresql://me:secret@host/{assignment.number % 2}"
                storage.set_trial_user_attr(assignment.trial_id, "error", error)

        engine.work = work
        engine.run()
        for record in load_study("toy").pareto():
            write_bundle(Path(record.bundle), record, engine.prepared.shape, engine.prepared.vocabulary)
        MADE["report"] = gather(load_study("toy"))
    return MADE["report"]


def write_bundle(folder: Path, record: Any, shape: TaskShape, vocabulary: Vocabulary) -> None:
    config, recipe = record.config, record.recipe
    size = vocabulary.size(config.vocabulary_keep)
    labels = ("bad", EVIL)
    described = BundleConfig(
        study=EVIL, teacher=EVIL, label_names=labels, lower_case=True, shape=shape, student=config, recipe=recipe
    )
    write_model(folder, build_student(config, shape, size), described, vocabulary.tokens(size))


def test_what_a_report_tells(report: Report) -> None:
    assert report.states["finished"] + report.states["failed"] == 14
    assert report.states.get("infeasible", 0) == len(report.study.trials("infeasible"))
    assert [step.trained for step in report.progress] == list(range(1, 15))
    volumes = [step.hypervolume for step in report.progress]
    assert volumes == sorted(volumes)
    assert volumes[-1] == pytest.approx(report.study.hypervolume())
    assert sum(len(failure.trials) for failure in report.failures) == report.states["failed"] > 0
    assert "secret" not in "".join(failure.reason for failure in report.failures)
    assert set(report.bytes_of) == set(report.milliseconds_of) == {record.trial for record in report.shown}
    for record in report.shown:
        assert sum(report.bytes_of[record.trial].values()) == record.deployed_bytes
    quality = next(each for each in report.importances if each.objective == "quality")
    assert sum(quality.shares.values()) == pytest.approx(1)
    latency = next(each for each in report.importances if each.objective == "latency_ms")
    assert latency.shares
    assert not any(name.startswith("recipe.") for name in latency.shares)


def test_a_page_is_whole_and_runs_nothing_that_a_study_says(report: Report) -> None:
    page = as_page(report)
    assert len(page.encode()) < 6_000_000
    own = page.replace(page[page.index("<script>") : page.rindex("</script>")], "")
    assert EVIL not in page
    assert "<img" not in own
    assert not re.findall(r'(?:src|href)="(?!#)', own)
    assert page.count("</script>") == 3
    assert "unsafe-eval" not in page
    assert "default-src 'none'" in html.unescape(page)
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    for name, figure in json.loads(found[1]).items():
        graph_objects.Figure(figure)  # raises on a property that plotly does not know
        assert f'id="{name}"' in page


def test_markdown_and_picture(report: Report) -> None:
    text = as_markdown(report)
    assert "<script" not in text.replace("\\<", "")
    for record in report.front:
        assert f"| {record.trial} | {record.quality:.4f} |" in text
    pytest.importorskip("matplotlib", reason="pictures need shoebox[report]")
    from search.report.picture import as_picture

    picture = as_picture(report)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


def test_the_command_writes_what_the_ending_says(report: Report, shoebox: Shoebox, tmp_path: Path) -> None:
    target = tmp_path / "out.md"
    target.write_text("old")
    done = shoebox("report", "toy", "-o", str(target))
    assert (done.returncode, done.stdout) == (0, f"{target}: {target.stat().st_size:,} bytes\n")
    assert target.read_text().startswith("# toy")
    assert [path.name for path in tmp_path.glob("*out*")] == ["out.md"]
    for arguments, sentence in (
        (("toy", "-o", str(tmp_path / "out.pdf")), "a report is html, md or png"),
        (("toy", "-o", str(tmp_path), "--format", "md"), "is a folder"),
        (("none",), "There is no study 'none'"),
    ):
        wrong = shoebox("report", *arguments)
        assert wrong.returncode == 2
        assert sentence in wrong.stderr


@pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")
def test_a_browser_shows_the_page_and_a_click_the_card(report: Report, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(as_page(report), encoding="utf-8")
    with browser() as page:
        for width, height in ((1400, 1000), (390, 844)):
            page.open(file, width, height)
            assert page.messages == []
            assert page.ask("document.title") == "toy: Shoebox report"
            assert page.ask("document.documentElement.scrollWidth") <= width
            narrow = "[...document.querySelectorAll('.figure')].filter((each) => each.clientWidth < 250).length"
            assert page.ask(narrow) == 0
            assert page.ask("document.querySelectorAll('.figure:not(:has(svg.main-svg))').length") == 0
        page.open(file, 1400, 1000)
        assert _shown(page) == [str(report.front[0].trial)]
        last = report.front[-1]
        assert last != report.front[0]
        # The last of the front is the first point of its line.
        where = page.ask(
            "(() => { const box = document.querySelectorAll('#front .scatterlayer .trace')[1]"
            ".querySelector('.point').getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        page.click(*where)
        assert _shown(page) == [str(last.trial)]
        page.ask(f"document.querySelector('button[data-trial=\"{report.front[0].trial}\"]').click()")
        assert _shown(page) == [str(report.front[0].trial)]
        assert page.messages == []


def _shown(page: Any) -> Any:
    return page.ask("[...document.querySelectorAll('.card:not([hidden])')].map((card) => card.dataset.trial)")


def test_bundles_that_are_gone(report: Report) -> None:
    folder = Path(report.front[0].bundle).parent
    away = folder.rename(folder.with_name("away"))
    bare = gather(load_study("toy"))
    away.rename(folder)
    assert (bare.cards, bare.bytes_of, bare.milliseconds_of) == ({}, {}, {})
    page = as_page(bare)
    assert page.count("so that it has no card") == len(bare.front)
    assert 'id="bytes"' not in page
    assert "Where the bytes go" not in as_markdown(bare)


def test_stopped_trials_end_and_cost_as_their_last_rung_says(make_engine: Callable[..., Any]) -> None:
    early = {"sampler": "random", "early_stopping": {"rungs": [0.1, 0.3], "reduction_factor": 3}}
    engine = make_engine(trials=12, limits={"deployed_bytes": 20_000_000}, more=early)
    engine.run()
    engine.ledger.close()
    study = load_study("toy")
    # As if every trial had taken what its record says, one after the other: stopped ones are told when all is over.
    trials, start = engine.study.get_trials(), datetime(2026, 1, 1)
    for trial in trials:
        trial.datetime_start = start + timedelta(hours=trial.number)
        ended = trial.number + 1 if trial.state == TrialState.COMPLETE else len(trials)
        trial.datetime_complete = start + timedelta(hours=ended)
    steps = progress_of(study, trials)
    assert [step.trial for step in steps] == list(range(12))
    spent = [3600 * (trial.rungs[-1]["share"] if trial.state == "stopped" else 1) for trial in study.trials()]
    assert len(study.trials("stopped")) > 1
    assert [step.seconds for step in steps] == pytest.approx(np.cumsum(spent))


def test_failed_trials_cost_what_their_worker_says(make_engine: Callable[..., Any]) -> None:
    engine = make_engine(trials=3, sampler="random")
    assignment = engine.ledger.next()
    for name, value in {ERROR: "out of memory", FAILED_AFTER: 600.0}.items():
        engine.study._storage.set_trial_user_attr(assignment.trial_id, name, value)
    engine.ledger.settle(assignment.number)
    engine.run()
    trials = engine.study.get_trials()
    trials[0].datetime_start -= timedelta(hours=9)  # most of which it waited at a rung
    assert progress_of(load_study("toy"), trials)[0].seconds == 600


def test_studies_with_little_in_them(make_engine: Callable[..., Any], shoebox: Shoebox) -> None:
    engine = make_engine(trials=1)
    empty = shoebox("report", "toy", "-o", "x.html")
    assert (empty.returncode, "has no finished trial that keeps its limits" in empty.stderr) == (2, True)
    engine.run()
    one = gather(load_study("toy"))
    assert all("Needs 6 finished trials" in each.remark for each in one.importances)
    page = as_page(one)
    assert 'id="parallel"' not in page
    assert "No losses are recorded" in page
    with_losses = [dataclasses.replace(one, shown=[r.model_copy(update={"losses": (2.0, 1.0)}) for r in one.shown])]
    assert drawn.curves(with_losses[0])["data"][0]["y"] == [2.0, 1.0]


@pytest.mark.parametrize("seed", range(4))
def test_parts_add_up_to_the_file(seed: int, tmp_path: Path) -> None:
    tokens = [*SPECIAL_TOKENS, *(f"w{n}é" for n in range(500))]
    vocabulary = Vocabulary(tokens, np.ones(len(tokens)), np.ones(len(tokens)))
    shape = TaskShape(outputs=2, segments=1 + seed % 2, max_length=32)
    config, _ = JointSpace(SpaceSpec(vocabulary_keep=[0.5])).draw(np.random.default_rng(seed))
    size = vocabulary.size(config.vocabulary_keep)
    total = deployed_bytes(config, shape, vocabulary)
    parts = bytes_by_part(config, shape, vocabulary.tokens(size), total)
    assert sum(parts.values()) == total
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary.tokens(size)))
    assert parts["vocab.txt"] == (tmp_path / "vocab.txt").stat().st_size
    assert parts["word embeddings"] >= size * config.embedding_width * config.embedding_bits / 8
    weights = sum(layer.ffn_width * config.width * 2 * layer.ffn_bits / 8 for layer in config.layers)  # type: ignore[attr-defined]
    assert weights < parts["feed-forward"] < 2 * weights + 20_000
    assert parts["graph"] < 40_000

    model = LatencyModel(load_profile("cortex-a53"))
    reading = load_reading(16)
    found = milliseconds_by_operator(model, config, shape, size, reading)
    expected = model.predict(config, shape, size, 16).milliseconds
    assert sum(found.values()) == pytest.approx(expected, rel=0.05)
    assert found[START] < 0.6 * expected
    few = without_small({1: found}, 4)[1]
    assert len(few) == 4
    assert sum(few.values()) == pytest.approx(sum(found.values()))


@pytest.mark.parametrize(("family", "part"), [("birnn", "recurrent layers"), ("conv", "cells")])
@pytest.mark.parametrize("depth", [1, 2])
def test_weights_of_every_family_count_where_they_are_used(family: str, part: str, depth: int) -> None:
    tokens = [*SPECIAL_TOKENS, *(f"w{n}" for n in range(500))]
    vocabulary = Vocabulary(tokens, np.ones(len(tokens)), np.ones(len(tokens)))
    shape = TaskShape(outputs=2, segments=1, max_length=32)
    wide: dict[str, Any] = {"depth": [depth], "width": [128], "pooling": ["max" if family == "birnn" else "attentive"]}
    spec = SpaceSpec(families=(family,), vocabulary_keep=[0.5], **{family: wide})
    config, _ = JointSpace(spec).draw(np.random.default_rng(depth))
    student = build_student(config, shape, vocabulary.size(config.vocabulary_keep))
    of_layers = sum(values.nbytes for name, values in student.weights().items() if re.match(r"(rnn|c)\d", name))
    total = deployed_bytes(config, shape, vocabulary)
    parts = bytes_by_part(config, shape, vocabulary.tokens(vocabulary.size(config.vocabulary_keep)), total)
    assert sum(parts.values()) == total
    assert of_layers <= parts[part] < 1.1 * of_layers + 20_000
    assert parts["graph"] < 40_000


@pytest.mark.parametrize(("family", "group"), [("transformer", "mean ffn_bits"), ("birnn", "mean input_bits")])
def test_parameters_of_all_layers_count_by_their_mean(family: str, group: str) -> None:
    space = JointSpace(SpaceSpec(families=(family,), birnn={"depth": [2]}, transformer={"depth": [2]}))
    drawn = space.choose(draw_from(np.random.default_rng(0)))
    distributions = {name: FloatDistribution(0, 8) for name, value in drawn.items() if name.endswith("_bits")}
    params = {name: float(drawn[name]) for name in distributions}
    found = features(create_trial(params=params, distributions=distributions, value=0.0))  # type: ignore[arg-type]
    assert group in found
    assert not [name for name in found if "layer" in name]


def test_cells_have_a_depth_as_layers_have() -> None:
    shapes = {"transformer": 2, "birnn": 2, "conv": 3}
    for family, depth in shapes.items():
        space = JointSpace(SpaceSpec(families=(family,), **{family: {"depth": [depth]}}))
        config, _ = space.draw(np.random.default_rng(0))
        assert _architecture(config)["depth"] == depth


def test_a_hypervolume_names_what_it_was_taken_against(
    report: Report, monkeypatch: pytest.MonkeyPatch, shoebox: Shoebox
) -> None:
    limits = report.study.file.limits
    objectives = report.study.objectives
    told = reference_in_words(objectives, limits, report.study.hypervolume())
    assert told == "against quality 0, latency_ms 100"
    assert told in as_page(report)
    assert told in as_markdown(report).replace("\\_", "_")
    assert f"({told})" in shoebox("pareto", "toy").stdout.replace("\n", " ")
    monkeypatch.setitem(REFERENCE_COSTS, "latency_ms", 0.001)
    assert report.study.hypervolume() == 0
    assert "against quality 0, latency_ms 0.001: every student lies beyond" in as_page(report)


def load_reading(tokens: int) -> Any:
    from objectives.latency import LatencyReading

    return LatencyReading(milliseconds=1, backend="estimated", device="cortex-a53", calibrated=False, tokens=tokens)


def test_importances_of_what_is_conditional(report: Report) -> None:
    found = find_study(open_storage(report.study.url), "toy")
    assert found is not None
    every = importances(report.study, found.get_trials())
    again = importances(report.study, found.get_trials())
    assert every == again  # seeded
    names = set(every[0].shares)
    assert not any(name.startswith("layer") for name in names)
    assert {"mean ffn_bits", "depth"} <= names


def test_importances_find_what_matters() -> None:
    generator, rows, values = np.random.default_rng(0), [], []
    unit = FloatDistribution(0, 1)
    for index in range(60):
        a, b, c = generator.random(3).tolist()
        # `deep` exists in some trials only, and `same` never changes.
        row = {"a": (a, unit), "mean b": (b, None), "recipe.c": (c, unit), "same": (1.0, unit)}
        rows.append({**row, "deep": (c, unit)} if index % 2 else row)
        values.append(a + 5 * c)
    quality = _importance("quality", rows, values)
    milliseconds = [row["a"][0] + row["recipe.c"][0] / 4 for row in rows]
    cost = _importance("latency_ms", rows, milliseconds)
    assert list(quality.shares) == ["recipe.c", "a", "mean b"]
    assert quality.shares["recipe.c"] > 0.8
    assert next(iter(cost.shares)) == "a"  # what a cost cannot depend on is not asked
    assert set(cost.shares) == {"a", "mean b"}
    assert "same value" in _importance("quality", rows, [1.0] * 60).remark


def test_kinds_of_students_have_colours(report: Report) -> None:
    assert drawn.colours_of_kinds(report) == {}
    first, *rest = report.records
    staged = first.model_copy(update={"recipe": first.recipe.model_copy(update={"schedule": "stagewise"})})
    mixed = dataclasses.replace(report, records=[staged, *rest], front=[staged])
    kinds = drawn.colours_of_kinds(mixed)
    assert list(kinds) == ["transformer", "transformer, stagewise"]
    figure = drawn.front(mixed)
    graph_objects.Figure(figure)
    assert figure["data"][1]["marker"]["color"] == [kinds["transformer, stagewise"]]
    assert [trace["name"] for trace in figure["data"][2:]] == ["other trials", "front", *kinds]
    assert [trace["showlegend"] for trace in figure["data"][:2]] == [False, False]


def test_small_parts_of_a_report(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spread_evenly(report.front, 100) == report.front
    few = spread_evenly(report.records, 3)
    assert (few[0], few[-1], len(few)) == (report.records[0], report.records[-1], 3)
    assert without_secrets("s3://key:word@bucket and http://a/b@c") == "s3://***@bucket and http://a/b@c"
    assert without_secrets(f"{Path.home()}/x and {Path.home()}na") == f"~/x and {Path.home()}na"
    monkeypatch.setenv("HOME", "/")  # of a container without users
    assert without_secrets("nyu-mll/glue in /data") == "nyu-mll/glue in /data"
    assert "<" not in embedded_json({"a": "</script>", "b": [float("nan")]})
    assert json.loads(embedded_json({"b": [float("nan"), 1.0], "c": "NaN"})) == {"b": [None, 1.0], "c": "NaN"}
    shown = render_markdown("<b>x</b> ![a](http://a/b.png) [c](javascript:x) | **d**")
    assert "<b>" not in shown
    assert "<img" not in shown
    assert 'href="javascript' not in shown
    names, rows = bits_of_modules([record.config for record in report.front])
    assert names[0] == "embedding"
    assert [len(row) for row in rows] == [len(report.front)] * len(names)


@pytest.mark.parametrize(("family", "modules"), [("birnn", {"input", "recurrent", "projection"}), ("conv", {"conv"})])
def test_bits_of_every_family_are_shown(family: str, modules: set[str]) -> None:
    config, _ = JointSpace(SpaceSpec(families=[family])).draw(np.random.default_rng(0))
    names, rows = bits_of_modules([config])
    assert {name.split()[-1] for name in names} == {"embedding", *modules}
    assert all(row[0] in (2, 4, 8) for row in rows)


@pytest.mark.usefixtures("toy")
def test_objectives_have_names_in_optunas_own_tools(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.run.run_trials", lambda *_: None)
    run_study(toy_file)
    study = find_study(open_storage(load_study("toy").url), "toy")
    assert study is not None
    assert study.metric_names == ["accuracy (validation)", "latency, ms (cortex-a53, estimated)"]


def test_the_dashboard_opens_the_storage(
    make_engine: Callable[..., Any], shoebox: Shoebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="needs shoebox[dashboard]")
    assert "There is no storage" in shoebox("dashboard").stderr
    make_engine(trials=2).run()
    asked: list[dict[str, Any]] = []

    def serve(storage: Any, host: str, port: int) -> None:
        # What run_server would serve, asked without a socket.
        application = dashboard.wsgi(storage)
        answer = application({"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies"}, lambda *_: None)
        asked.append({"host": host, "port": port, **json.loads(b"".join(answer))})

    monkeypatch.setattr(dashboard, "run_server", serve)
    done = shoebox("dashboard", "--port", "8081")
    assert done.returncode == 0, done.stderr
    assert (asked[0]["host"], asked[0]["port"]) == ("127.0.0.1", 8081)
    assert [study["study_name"] for study in asked[0]["study_summaries"]] == ["toy"]


@pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")
def test_the_bits_of_one_student_have_their_title_whole(report: Report, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    alone = dataclasses.replace(report, front=report.front[:1], shown=report.shown[:1])
    file.write_text(as_page(alone), encoding="utf-8")
    with browser() as page:
        page.open(file, 1400, 1000)
        title, picture = (
            page.ask(f"(box => [box.left, box.right])(document.querySelector('#bits {part}').getBoundingClientRect())")
            for part in (".xtitle", ".main-svg")
        )
    assert picture[0] <= title[0] < title[1] <= picture[1]
