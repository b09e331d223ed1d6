"""Starting a study from what older ones found."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import toy_pipeline

from search.bench import SyntheticProblem
from search.samplers import SAMPLERS, SamplerName, study_sampler
from search.samplers.known_cost import KnownCosts, OlderQualities, Prior
from search.samplers.known_cost.gaussian_process import GaussianProcess, Scales
from search.states import FROM, state_of
from search.storage import default_url, open_storage
from search.study import load_study
from search.warm_start import (
    AUTO,
    WARM_START,
    Fingerprint,
    agreement,
    enqueue_missing,
    fingerprint,
    older_studies,
    plan_warm_start,
    similarity,
    withdraw,
)
from search.warm_start.adapt import adapt, flat_values
from search.warm_start.candidates import OldTrial, Tally, candidates, diverse
from search.warm_start.plan import WarmStart, choose_start, most_tried
from space import JointSpace, deployed_bytes
from space.joint import SpaceSpec

Shoebox = Callable[..., subprocess.CompletedProcess[str]]
PROBLEM = SyntheticProblem()
TASK = Fingerprint(metric="accuracy", outputs=2, segments=1, per_token=False, length=20, words=frozenset("abcd"))


def drawn(count: int, space: JointSpace = PROBLEM.space) -> list[OldTrial]:
    generator = np.random.default_rng(0)
    found = []
    for number in range(count):
        config, recipe = space.draw(generator)
        quality = PROBLEM.quality(space.to_params(config, recipe))
        found.append(OldTrial(number, flat_values(config, recipe), quality))
    return found


def taken(trials: list[OldTrial], space: JointSpace = PROBLEM.space, limit: int = 1_000_000) -> tuple[Any, Tally]:
    tally = Tally()
    found = candidates("old", trials, space, PROBLEM.costs, ("quality", "latency_ms"), {"deployed_bytes": limit}, tally)
    return found, tally


def test_similarity_orders_tasks() -> None:
    reviews = TASK.model_copy(update={"words": frozenset("abce")})
    pairs = reviews.model_copy(update={"segments": 2})
    intents = TASK.model_copy(update={"outputs": 77, "words": frozenset("awxy")})
    tags = TASK.model_copy(update={"per_token": True})
    found = [similarity(TASK, other) for other in (TASK, reviews, pairs, intents, tags)]
    assert found[:2] == [1.0, 0.75]
    assert found[1] > found[2] > found[3]
    assert found[4] < 0.5
    assert similarity(intents, TASK) == similarity(TASK, intents)
    assert similarity(None, TASK) == 0.5
    assert Fingerprint.model_validate(TASK.as_json()) == TASK


def test_configurations_of_another_space_are_brought_into_this_one() -> None:
    trials = drawn(40)
    assert all(adapt(PROBLEM.space, trial.values).params for trial in trials)
    same = adapt(PROBLEM.space, trials[0].values)
    assert same is not None
    assert not same.moved
    assert PROBLEM.space.to_params(*PROBLEM.space.from_params(same.params)) == same.params

    other = JointSpace(
        SpaceSpec(
            embedding_bits=[2, 4],
            recipe={"learning_rate": {"low": 0.01, "high": 0.02, "log": True}, "state_weight": [0.0, 1.0]},
            transformer={"depth": {"low": 2, "high": 3}, "width": [128, 256]},
        )
    )
    values = {**trials[0].values, "embedding_bits": 8, "width": 96, "depth": 1}
    del values["recipe.state_weight"]
    found = adapt(other, values)
    assert found is not None
    assert found.params["embedding_bits"] == 4
    assert found.params["width"] == 128
    assert found.params["depth"] == 2
    assert found.params["recipe.learning_rate"] == 0.01
    assert found.params["recipe.state_weight"] == 0.0
    assert {"embedding_bits", "width", "depth", "recipe.learning_rate"} <= set(found.moved)
    assert "recipe.state_weight" in found.filled
    other.from_params(found.params)


@pytest.mark.parametrize(("low", "high", "step"), [(0.1, 0.7, 0.2), (0.1, 0.75, 0.2), (0.1, 0.7, 0.1), (0.0, 0.3, 0.1)])
def test_a_value_beyond_a_range_in_steps_gives_way_to_its_last(low: float, high: float, step: float) -> None:
    """0.1 + 3 * 0.2 is a little above 0.7."""
    steps = JointSpace(SpaceSpec(recipe={"label_weight": {"low": low, "high": high, "step": step}}))
    for trial in drawn(20):
        for value, nearest in ((1.0, steps.spec.recipe.label_weight.last), (0.0, low), (low + 0.9 * step, low + step)):
            found = adapt(steps, {**trial.values, "recipe.label_weight": value})
            assert found is not None
            assert found.params["recipe.label_weight"] == pytest.approx(nearest)
            steps.from_params(found.params)


def test_a_student_of_a_family_that_is_not_searched_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    both, one = (JointSpace(SpaceSpec(families=families)) for families in (["transformer", "birnn"], ["transformer"]))
    birnn, generator = JointSpace(SpaceSpec(families=["birnn"])), np.random.default_rng(0)
    others = [OldTrial(20 + i, flat_values(*birnn.draw(generator)), 0.99) for i in range(20)]
    trials = drawn(20) + others
    assert all(adapt(both, trial.values) is not None for trial in trials)
    assert [trial.number for trial in trials if adapt(one, trial.values) is not None] == list(range(20))

    def start(some: list[OldTrial]) -> WarmStart:
        given = {"old": (1.0, some)}
        return choose_start(given, one, PROBLEM.costs, ("quality", "latency_ms"), {"deployed_bytes": 10**9}, 40)

    caplog.set_level("INFO", "shoebox")
    found = start(trials)
    assert {configuration.trial for configuration in found.configurations} <= set(range(20))
    assert [max(known.qualities) < 0.99 for known in found.knowledge] == [True]
    assert "tried first: 10 of old (similarity 1.00)." in caplog.text
    assert "Of their 40 trials, 20 cannot be built in this space." in caplog.text
    caplog.clear()
    found = start(others)
    assert (found.configurations, found.knowledge) == ([], [])
    assert "no trial of old is of use here; this study starts cold." in caplog.text
    assert "Of their 20 trials, 20 cannot be built in this space." in caplog.text
    assert "tried first" not in caplog.text


def test_limits_are_those_of_the_new_study_and_the_choice_is_diverse() -> None:
    trials = drawn(200)
    found, tally = taken(trials, limit=600_000)
    assert tally.trials == 200
    assert tally.infeasible == 200 - len(found) - tally.unfit > 0
    assert all(PROBLEM.costs(candidate.params)["deployed_bytes"] <= 600_000 for candidate in found)
    chosen = diverse(found, 4)
    assert len(chosen) == 4
    best = max(found, key=lambda candidate: candidate.quality)
    assert best in chosen
    beaten = [c for c in chosen if any(o.quality > c.quality and o.costs[0] < c.costs[0] for o in found)]
    assert not beaten
    # Farther apart than the best ones of the front, and not all of one kind.
    front = [c for c in found if not any(o.quality > c.quality and o.costs[0] < c.costs[0] for o in found)]
    best_four = sorted(front, key=lambda c: -c.quality)[:4]
    spreads = [float(np.ptp([np.log(c.costs[0]) for c in some])) for some in (chosen, best_four)]
    assert len(front) > 4
    assert spreads[0] > spreads[1]
    assert len(diverse(found, 10_000)) == len(found)
    assert diverse([], 3) == []


def test_what_is_worth_most_comes_first() -> None:
    found, _ = taken(drawn(200), limit=600_000)
    chosen = diverse(found, 6)
    qualities, costs = (
        np.array(values) for values in zip(*((c.quality, np.log(c.costs[0])) for c in chosen), strict=True)
    )
    points = np.column_stack(
        [(values - values.min()) / np.ptp(values) * sign for values, sign in ((qualities, 1), (costs, -1))]
    )

    def area(indices: list[int]) -> float:
        """By counting the cells of a fine grid that a point dominates."""
        better, cheaper = np.meshgrid(np.linspace(-0.1, 1, 400), np.linspace(-1.1, 0, 400))
        return float(np.any([(points[i, 0] >= better) & (points[i, 1] >= cheaper) for i in indices], axis=0).mean())

    for count in range(len(chosen)):
        before = list(range(count))
        areas = [area([*before, index]) for index in range(count, len(chosen))]
        assert areas[0] >= max(areas) - 0.005


def test_few_trials_of_a_study_are_warm() -> None:
    assert [most_tried(budget) for budget in (1, 4, 10, 12, 40, 100)] == [1, 2, 4, 4, 10, 25]


@pytest.fixture
def old(make_engine: Callable[..., Any]) -> Any:
    engine = make_engine(trials=8)
    engine.run()
    return engine


@pytest.mark.usefixtures("toy", "old")
def test_search_starts_warm_and_is_resumed_without_queueing_twice(shoebox: Shoebox, toy_file: Path) -> None:
    command = ["search", str(toy_file), "--name", "new", "--trials", "6", "--workers", "1", "--sampler", "known-cost"]
    done = shoebox(*command, "--warm-start", "toy")
    assert done.returncode == 0, done.stderr
    assert "Warm start: configurations of older studies are tried first: 3 of toy (similarity 0.50)." in done.stderr
    study = optuna.load_study(study_name="new", storage=open_storage(default_url()))
    warm = [trial for trial in study.trials if FROM in trial.user_attrs]
    assert [trial.number for trial in warm] == [0, 1, 2]
    origins = load_study("toy").trials()
    best = load_study("toy").best()
    assert best.trial in [trial.user_attrs[FROM]["trial"] for trial in warm]
    assert all(origins[trial.user_attrs[FROM]["trial"]].params == trial.params for trial in warm)
    # The toy's qualities are the same in every study.
    assert agreement(study) == {"toy": (3, pytest.approx(1.0))}
    assert "toy orders the 3 shared configurations with rank correlation +1.00." in done.stderr
    done = shoebox(*command, "--warm-start", "toy", "--resume", "--trials", "8")
    assert done.returncode == 0, done.stderr
    for other in ("new", "toi"):
        done = shoebox(*command, "--warm-start", other, "--resume", "--trials", "9")
        assert done.returncode == 2
        assert f"--warm-start: study 'new' was started with toy, not {other}." in done.stderr
    after = optuna.load_study(study_name="new", storage=open_storage(default_url())).trials
    assert [trial.number for trial in after if FROM in trial.user_attrs] == [0, 1, 2]
    assert len(load_study("new").trials("finished")) == 8
    # `auto` finds both, this one more similar than that of before there were fingerprints.
    olds = older_studies([AUTO], "third", open_storage(default_url()), default_url())
    file = load_study("new").file
    prepared = toy_pipeline.prepare(file.plan())
    space = JointSpace(file.space)

    def costs(params: Any) -> dict[str, float]:
        return {"deployed_bytes": deployed_bytes(space.config_from(params), prepared.shape, prepared.vocabulary)}

    task = fingerprint(prepared, "accuracy")
    start = plan_warm_start(olds, file, task, space, costs, automatic=True)
    assert [(source.study, source.similarity) for source in start.sources] == [("new", 1.0), ("toy", 0.5)]
    assert len(start.configurations) == most_tried(file.search.trials)


@pytest.mark.usefixtures("toy", "old")
def test_search_begins_though_no_older_trial_is_of_use(shoebox: Shoebox, toy_file: Path) -> None:
    toy_file.write_text(toy_file.read_text() + "space: {families: [birnn]}\n")
    command = ["search", str(toy_file), "--name", "new", "--trials", "3", "--workers", "1", "--sampler", "known-cost"]
    done = shoebox(*command, "--warm-start", "toy")
    assert done.returncode == 0, done.stderr
    assert "no trial of toy is of use here; this study starts cold." in done.stderr
    assert len(load_study("new").trials("finished")) == 3
    study = optuna.load_study(study_name="new", storage=open_storage(default_url()))
    assert not any(FROM in trial.user_attrs for trial in study.trials)


@pytest.mark.usefixtures("toy", "old")
def test_wrong_older_studies_are_refused(shoebox: Shoebox, toy_file: Path) -> None:
    command = ["search", str(toy_file), "--name", "new"]
    for arguments, why in (
        (["--warm-start", "toi"], "there is no study 'toi'"),
        (["--warm-start", "new"], "'new' is the study that is to be started"),
        (
            ["--warm-start", "auto", "--warm-start", "toy"],
            "auto chooses among all older studies, so that it stands alone",
        ),
        (
            ["--warm-start", "toy", "--warm-start", "auto"],
            "auto chooses among all older studies, so that it stands alone",
        ),
    ):
        done = shoebox(*command, *arguments)
        assert done.returncode == 2
        assert why in done.stderr
    done = shoebox("search", str(toy_file), "--resume", "--warm-start", "toy")
    assert "was started without --warm-start" in done.stderr
    assert "There is no study 'new'" in shoebox("pareto", "new").stderr


def test_queue_is_filled_up_after_a_kill(old: Any, make_engine: Callable[..., Any]) -> None:
    study = make_engine().study
    params = [dict(trial.params) for trial in old.study.trials[:3]]
    configurations = [{"study": "toy", "trial": i, "quality": 0.5, "params": p} for i, p in enumerate(params)]
    study.set_user_attr(WARM_START, {"sources": [], "configurations": configurations, "knowledge": []})
    study.enqueue_trial(params[0], user_attrs={FROM: {"study": "toy", "trial": 0, "place": 0}})
    assert [enqueue_missing(study), enqueue_missing(study)] == [2, 0]
    waiting = [t for t in study.trials if t.state.name == "WAITING"]
    assert [t.system_attrs["fixed_params"] for t in waiting] == params


@pytest.mark.parametrize(("reversed_", "left"), [(False, 2), (True, 0)])
def test_rest_of_the_queue_is_dropped_where_the_older_study_is_contradicted(reversed_: bool, left: int) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    params = [trial.values for trial in drawn(6)]
    params = [adapt(PROBLEM.space, values).params for values in params]
    configurations = [
        {"study": "old", "trial": i, "quality": 0.9 - 0.01 * i, "params": p} for i, p in enumerate(params)
    ]
    study.set_user_attr(WARM_START, {"sources": [], "configurations": configurations, "knowledge": []})
    enqueue_missing(study)
    for index in range(4):
        trial = study.ask()
        PROBLEM.space.suggest(trial)
        study.tell(trial, [1.0, 0.5 + 0.01 * index if reversed_ else 0.5 - 0.01 * index])
        if index < 3:
            assert withdraw(study) == 0
    assert withdraw(study) == 2 - left
    waiting = [trial for trial in study.trials if trial.state.name == "WAITING"]
    assert len(waiting) == left
    assert sum(state_of(trial) == "orphaned" for trial in study.trials) == 2 - left
    assert enqueue_missing(study) == 0


def known(prior: Prior | None) -> KnownCosts:
    return KnownCosts(PROBLEM.space, PROBLEM.costs, PROBLEM.objectives, PROBLEM.limits, PROBLEM.reference, prior)


def test_prior_orders_what_was_not_tried_and_is_dropped_where_it_is_contradicted() -> None:
    from search.samplers.known_cost import KnownCostSampler
    from search.samplers.known_cost.prior import ShiftedProcess

    rows, _ = known(None).pool(0)
    layout = known(None).layout
    params = [layout.params(row) for row in rows[:90]]
    qualities = np.array([PROBLEM.quality(p) for p in params])
    prior = Prior([OlderQualities(0.5, params[:40], list(qualities[:40]))])
    study = known(prior)
    features = study.features(0)
    x = features(rows[:90], study.costs(rows[:90]))
    tried, rest = x[40:48], x[48:90]
    sampler = KnownCostSampler(study, 0, 0)
    none = np.empty((0, x.shape[1]))
    scored = (qualities - qualities[40:48].mean()) / qualities[40:48].std()
    for task, expected in ((scored, True), (-scored, False)):
        process = sampler._process(tried, task[40:48], none, features)
        assert isinstance(process, ShiftedProcess) is expected
        if expected:
            assert process is not None
            assert np.corrcoef(process.mean(rest), task[48:90])[0, 1] > 0.6


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_does_not_begin_with_what_an_older_study_of_the_same_seed_began_with(name: SamplerName) -> None:
    shape, vocabulary = PROBLEM._shape, PROBLEM._vocabulary

    def proposals(older: list[Any]) -> list[dict[str, Any]]:
        sampler = study_sampler(name, 0, PROBLEM.space, shape, vocabulary, ["quality"], PROBLEM.limits, None, older)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        found = []
        for _ in range(4):
            trial = study.ask()
            PROBLEM.space.suggest(trial)
            found.append(trial.params)
        return found

    before = proposals([])
    assert proposals([]) == before
    older = [(0.5, before, [0.1, 0.2, 0.3, 0.4])]
    warm = proposals(older)
    assert proposals(older) == warm
    assert all(params not in before for params in warm)
    # Nor one that starts from that one alone and knows as many trials.
    assert all(params not in before + warm for params in proposals([(0.5, warm, [0.1, 0.2, 0.3, 0.4])]))


def test_left_out_density_is_that_of_models_without_the_observation() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((6, 3)), generator.standard_normal(6)
    scales = Scales(np.array([1.0, 2.0, 3.0]), 0.7, 0.4, 0.1)
    total = 0.0
    for index in range(6):
        rest = np.arange(6) != index
        mean, deviation = GaussianProcess(x[rest], y[rest], scales).predict(x[index : index + 1])
        variance = deviation[0] ** 2 + scales.noise
        total += -0.5 * ((y[index] - mean[0]) ** 2 / variance + np.log(2 * np.pi * variance))
    assert GaussianProcess(x, y, scales).left_out(y) == pytest.approx(total)
