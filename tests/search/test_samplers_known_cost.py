"""The parts of the known-cost sampler, each against a computation that does not share its code."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from scipy.special import ndtri

from objectives.pareto import hypervolume
from search.bench import SyntheticProblem
from search.bench.simulation import Simulation
from search.samplers import PerTrialSampler
from search.samplers.known_cost import KnownCosts
from search.samplers.known_cost import known as known_module
from search.samplers.known_cost.cokriging import CoKriging
from search.samplers.known_cost.gain import ExpectedGain
from search.samplers.known_cost.gaussian_process import GaussianProcess, Scales, first_factor, fit_scales
from search.samplers.known_cost.history import History
from search.samplers.known_cost.layout import Layout
from search.states import RUNGS
from space import InputError, JointSpace, SpaceSpec


@pytest.fixture(scope="module")
def problem() -> SyntheticProblem:
    return SyntheticProblem()


@pytest.fixture
def known(problem: SyntheticProblem) -> KnownCosts:
    return KnownCosts(problem.space, problem.costs, problem.objectives, problem.limits, problem.reference)


def make_study(known: KnownCosts, objectives: int = 2, seed: int = 0) -> optuna.Study:
    directions = ["maximize", *["minimize"] * (objectives - 1)]
    return optuna.create_study(directions=directions, sampler=PerTrialSampler("known-cost", seed, known))


def propose(problem: SyntheticProblem, study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    problem.space.suggest(trial)
    return trial


def tell(problem: SyntheticProblem, study: optuna.Study, trial: optuna.Trial, quality: float) -> None:
    costs = problem.costs(trial.params)
    study.tell(trial, [quality, *(costs[name] for name in problem.objectives[1:])])


@pytest.mark.parametrize("costs", [0, 1, 2, 3])
def test_gain_is_the_mean_of_hypervolume_gains_over_the_quality(costs: int) -> None:
    generator = np.random.default_rng(costs)
    front = generator.random((12, costs)) * 1.1  # some beyond the reference
    quality = generator.random(12) * 1.1 - 0.05
    quality[3] = quality[4]
    if costs:
        front[5], front[7, 0] = front[6], front[8, 0]
    worst = [1.0] * costs
    directions: list[Any] = ["minimize"] * costs + ["maximize"]
    gain = ExpectedGain(front, quality, worst, 0.0)
    candidates, mean = generator.random((6, costs)), generator.random(6)
    deviation = np.array([0.05, 0.2, 0.3, 0.1, 0.5, 0.2])
    found = gain(candidates, mean, deviation)
    points = np.column_stack((front, quality))
    before = hypervolume(points, [*worst, 0.0], directions)
    draws = ndtri((np.arange(1000) + 0.5) / 1000)
    for i in range(6):
        after = [
            hypervolume(np.vstack((points, [*candidates[i], mean[i] + deviation[i] * z])), [*worst, 0.0], directions)
            for z in draws
        ]
        assert found[i] == pytest.approx(np.mean(after) - before, rel=0.02, abs=2e-4)


def test_gain_without_a_front_is_the_whole_box() -> None:
    gain = ExpectedGain(np.empty((0, 1)), np.empty(0), [10.0], 0.5)
    found = gain(np.array([[4.0], [12.0]]), np.array([0.9, 0.9]), np.array([1e-6, 1e-6]))
    assert found == pytest.approx([6 * 0.4, 0.0])


def test_process_predicts_and_knows_what_it_does_not_know() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((80, 6))
    y = x[:, 0] - 0.7 * x[:, 1] ** 2 + 0.05 * generator.standard_normal(80)
    middle, spread = y[:60].mean(), y[:60].std()
    scales = fit_scales(x[:60], (y[:60] - middle) / spread, np.zeros(6))
    process = GaussianProcess(x[:60], (y[:60] - middle) / spread, scales)
    mean, deviation = process.predict(x[60:])
    truth = (y[60:] - middle) / spread
    assert np.corrcoef(mean, truth)[0, 1] > 0.97
    assert np.mean(np.abs(mean - truth) < 3 * np.hypot(deviation, np.sqrt(scales.noise))) > 0.9
    assert process.predict(x[:1])[1][0] < process.predict(10 * np.ones((1, 6)))[1][0]
    assert scales.lengths[0] < scales.lengths[5]


def test_process_believes_a_running_trial_without_changing_its_mind() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.standard_normal((20, 4)), generator.standard_normal(20)
    scales = Scales(np.full(4, 2.0), 0.5, 0.3, 0.1)
    running = generator.standard_normal((1, 4))
    alone, believing = GaussianProcess(x, y, scales), GaussianProcess(x, y, scales, running)
    others = generator.standard_normal((30, 4))
    assert believing.mean(others) == pytest.approx(alone.mean(others), abs=1e-6)
    assert believing.predict(running)[1][0] < alone.predict(running)[1][0]


def test_process_goes_on_from_the_factor_of_its_first_observations() -> None:
    generator = np.random.default_rng(2)
    x, y, running = (generator.standard_normal(shape) for shape in ((30, 4), 30, (5, 4)))
    scales = Scales(np.array([1.0, 2.0, 3.0, 4.0]), 0.5, 0.3, 0.1)
    others = generator.standard_normal((40, 4))
    whole = GaussianProcess(x, y, scales, running)
    distances = np.sqrt(5 * (((x[:, None] - x) / scales.lengths) ** 2).sum(axis=2))
    columns = np.concatenate((x, 0.5 * (x * x - 1)), axis=1) / np.tile(scales.lengths, 2)
    covariance = 0.5 * (1 + distances + distances**2 / 3) * np.exp(-distances) + 0.3 * columns @ columns.T
    factor = first_factor(x, scales)
    assert factor @ factor.T == pytest.approx(covariance + 0.1 * np.eye(30))
    for count in (1, 16, 30):
        process = GaussianProcess(x, y, scales, running, first_factor(x[:count], scales))
        for found, wanted in zip(process.predict(others), whole.predict(others), strict=True):
            assert found == pytest.approx(wanted, abs=1e-9)
        assert process.observed_means == pytest.approx(whole.observed_means, abs=1e-9)
        assert process.left_out(np.zeros(35)) == pytest.approx(whole.left_out(np.zeros(35)))


@pytest.mark.filterwarnings("ignore:The value nan")
@pytest.mark.parametrize("early_stopping", [False, True])
def test_what_is_remembered_changes_no_proposal(early_stopping: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: made.update([name]) or function(*given)

    def trials() -> tuple[list[Any], Counter[str]]:
        made.clear()
        problem = SyntheticProblem()
        evaluate = problem.evaluate

        def failing(params: Mapping[str, Any], seed: int) -> tuple[float, ...]:
            qualities = evaluate(params, seed)
            return qualities if seed % 8 else (*qualities[:-1], math.nan)

        monkeypatch.setattr(problem, "evaluate", failing)
        simulation = Simulation(problem, "known-cost", 0, workers=2, early_stopping=early_stopping)
        simulation.run(80)
        return [(trial.params, trial.state) for trial in simulation._study.trials], made.copy()

    for name, function in (("fit_scales", fit_scales), ("first_factor", first_factor)):
        monkeypatch.setattr(known_module, name, counted(name, function))
    found, remembering = trials()
    assert {state for _, state in found} >= {TrialState.COMPLETE, TrialState.FAIL}
    monkeypatch.setattr(known_module, "_remembered", lambda known, key, make: make())
    for name in ("read", "foreseen"):
        monkeypatch.setattr(KnownCosts, name, property(lambda self: {}, lambda self, given: None), raising=False)
    again, forgetting = trials()
    assert again == found
    assert all(remembering[name] < 0.9 * forgetting[name] for name in ("fit_scales", "first_factor"))


def test_factors_are_remembered_as_far_as_there_is_room(known: KnownCosts, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    scales = Scales(np.full(3, 2.0), 0.5, 0.3, 0.1)
    points = [generator.standard_normal((10, 3)) for _ in range(8)]
    first = known.factor(points[0], scales)
    assert known.factor(points[0], scales) is first
    for x in points[1:6]:
        known.factor(x, scales)
    assert known.factor(points[0], scales) is first  # six are remembered; now the second was not asked for longest
    known.factor(points[6], scales)
    assert known.factor(points[0], scales) is first
    assert len(known._factors) == 6
    monkeypatch.setattr(known_module, "FACTOR_BYTES", 1700)  # of 800 each
    last = known.factor(points[7], scales)
    assert [*known._factors.values()][-1] is last
    assert len(known._factors) == 2
    monkeypatch.setattr(known_module, "FACTOR_BYTES", 100)
    assert known.factor(points[7], scales) is last
    assert len(known._factors) == 1


def test_rows_are_read_whatever_object_a_storage_hands_out(problem: SyntheticProblem, known: KnownCosts) -> None:
    """The one in memory fills in the parameters of the trial that it has handed out."""
    study = make_study(known)
    asked = [study.ask() for _ in range(3)]
    for trial in asked:
        assert len(History.of(study.get_trials(deepcopy=False), known).believed) == trial.number
        problem.space.suggest(trial)
    for trial in reversed(asked):
        tell(problem, study, trial, 0.7 + 0.01 * trial.number)
    history = History.of(study.get_trials(deepcopy=False), known)
    assert history.observed_numbers.tolist() == [2, 1, 0]  # as they ended
    assert history.qualities == pytest.approx([0.72, 0.71, 0.7])


def test_rows_are_configurations_of_the_space() -> None:
    spec = SpaceSpec(
        embedding_width={"low": 16, "high": 256, "step": 16},
        vocabulary_keep={"low": 0.05, "high": 0.5},
        transformer={"depth": {"low": 1, "high": 6}, "ffn_width": {"low": 64, "high": 512, "step": 64}},
        recipe={"teacher_learning_rate": 0.0},
    )
    space = JointSpace(spec)
    layout = Layout(space)
    generator = np.random.default_rng(0)
    rows = layout.draw(generator, 200)
    everything = np.ones(len(layout), dtype=bool)
    varied = layout.vary(rows, generator, 0.2, everything)
    crossed = layout.cross(rows, rows[::-1], generator)
    for row in np.concatenate((rows, varied, crossed)):
        params = layout.params(row)
        config, recipe = space.from_params(params)  # raises if anything is missing or outside
        assert space.to_params(config, recipe) == params
        again = layout.row(params)
        assert again is not None
        np.testing.assert_allclose(again, row, atol=1e-12)
    assert {len(space.from_params(layout.params(row))[0].layers) for row in rows} == set(range(1, 7))
    assert all(not np.array_equal(row, other, equal_nan=True) for row, other in zip(rows, varied, strict=True))


def test_no_row_for_parameters_that_are_no_configuration(known: KnownCosts) -> None:
    params = known.layout.params(known.layout.draw(np.random.default_rng(0), 1)[0])
    assert known.layout.row(params) is not None
    assert known.layout.row({**params, "width": 7}) is None
    assert known.layout.row({**params, "no such": 7}) is None
    assert known.layout.row({name: value for name, value in params.items() if name != "width"}) is None


def test_proposes_only_what_keeps_known_limits(problem: SyntheticProblem) -> None:
    tight = {"deployed_bytes": 250_000.0, "latency_ms": 1.5}  # 2 % of random draws
    known = KnownCosts(problem.space, problem.costs, problem.objectives, tight)
    study = make_study(known)
    for number in range(20):
        trial = propose(problem, study)
        costs = problem.costs(trial.params)
        assert all(costs[name] <= limit for name, limit in tight.items())
        tell(problem, study, trial, problem.evaluate(trial.params, number)[-1])


def test_finds_the_feasible_corner_that_random_draws_miss(problem: SyntheticProblem) -> None:
    rows, costs = KnownCosts(problem.space, problem.costs, problem.objectives, {"deployed_bytes": 75_000.0}).pool(0)
    drawn = [problem.costs(problem.space.to_params(*problem.space.draw(np.random.default_rng(i)))) for i in range(300)]
    assert all(cost["deployed_bytes"] > 75_000 for cost in drawn)
    assert len(rows) > 0
    assert (costs[:, 0] <= 75_000).all()


def test_measured_costs_correct_predicted_ones(problem: SyntheticProblem, known: KnownCosts) -> None:
    limited = KnownCosts(problem.space, problem.costs, problem.objectives, {"latency_ms": 4.0})
    study = make_study(limited)
    for number in range(14):
        trial = propose(problem, study)
        measured = 1.25 * problem.costs(trial.params)["latency_ms"]
        trial.set_constraint("latency_ms", measured / 4.0 - 1)
        if measured > 4.0:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [problem.evaluate(trial.params, number)[-1], measured])
    trial = study.ask()
    history = History.of(study.trials[:-1], limited)
    assert history.correction[limited.names.index("latency_ms")] == pytest.approx(1.25)
    while len([t for t in study.trials if t.state == TrialState.COMPLETE]) < 14:
        problem.space.suggest(trial)
        study.tell(trial, [problem.evaluate(trial.params, trial.number)[-1], 1.0])
        trial = study.ask()
    problem.space.suggest(trial)
    assert 1.25 * problem.costs(trial.params)["latency_ms"] <= 4.0


def test_what_was_measured_to_break_a_limit_is_not_proposed_again(problem: SyntheticProblem) -> None:
    study = make_study(KnownCosts(problem.space, problem.costs, problem.objectives, {"latency_ms": 4.0}))
    found = []
    for _ in range(6):
        trial = propose(problem, study)
        found.append(trial.params)
        trial.set_constraint("latency_ms", 0.01)
        study.tell(trial, state=TrialState.PRUNED)
    assert all(params not in found[:index] for index, params in enumerate(found))


def test_failed_trials_count_as_bad_and_orphaned_ones_for_nothing(problem: SyntheticProblem, known: KnownCosts) -> None:
    study = make_study(known)
    qualities = [0.8, 0.7, 0.9]
    for quality in qualities:
        tell(problem, study, propose(problem, study), quality)
    study.tell(propose(problem, study), state=TrialState.FAIL)
    orphaned = propose(problem, study)
    orphaned.set_user_attr("orphaned", True)
    study.tell(orphaned, state=TrialState.FAIL)
    propose(problem, study)  # running
    history = History.of(study.trials, known)
    assert history.qualities.tolist() == [*qualities, 0.7]
    assert len(history.believed) == 1
    assert history.started == 5


def test_workers_at_a_time_get_different_proposals(problem: SyntheticProblem, known: KnownCosts) -> None:
    study = make_study(known)
    for number in range(16):
        trial = propose(problem, study)
        tell(problem, study, trial, problem.evaluate(trial.params, number)[-1])
    running = [propose(problem, study).params for _ in range(6)]
    students = {str(sorted(problem.costs(params).items())) for params in running}
    assert len(students) >= 5


def test_does_not_propose_a_configuration_twice() -> None:
    # Only 12 configurations: after 11 of them the last one is left.
    spec = SpaceSpec(
        vocabulary_keep=0.1,
        embedding_width=32,
        embedding_bits=[4, 8],
        block_size=32,
        transformer={
            "depth": [1, 2, 3],
            "width": [96, 128],
            "heads": 2,
            "activation": "relu",
            "ffn_width": 128,
            "token_keep": 1.0,
            "attention_bits": 4,
            "ffn_bits": 4,
        },
        recipe={
            "learning_rate": 1e-3,
            "label_weight": 0.5,
            "logit_weight": 1.0,
            "hidden_weight": 1.0,
            "temperature": 2.0,
            "teacher_learning_rate": 0.0,
            "initialization": "teacher",
        },
    )
    space = JointSpace(spec)
    small = SyntheticProblem(space=space)
    study = make_study(KnownCosts(space, small.costs, small.objectives))
    everything = [
        {"embedding_bits": bits, "depth": depth, "width": width}
        for bits in (4, 8)
        for depth in (1, 2, 3)
        for width in (96, 128)
    ]
    for params in everything[:-1]:
        study.enqueue_trial(params)
        trial = study.ask()
        space.suggest(trial)
        tell(small, study, trial, small.evaluate(params, trial.number)[-1])
    trial = study.ask()
    space.suggest(trial)
    assert trial.params == everything[-1]


def test_enqueued_parameters_are_kept_and_the_rest_chosen_to_fit(problem: SyntheticProblem, known: KnownCosts) -> None:
    study = make_study(known)
    for number in range(14):
        trial = propose(problem, study)
        tell(problem, study, trial, problem.evaluate(trial.params, number)[-1])
    study.enqueue_trial({"depth": 4, "width": 256, "layer3.ffn_bits": 8})
    trial = propose(problem, study)
    assert (trial.params["depth"], trial.params["width"], trial.params["layer3.ffn_bits"]) == (4, 256, 8)
    assert problem.costs(trial.params)["deployed_bytes"] <= problem.limits["deployed_bytes"]


@pytest.mark.parametrize(
    "objectives",
    [("quality",), ("quality", "latency_ms", "deployed_bytes")],
    ids=["one", "three"],
)
def test_other_numbers_of_objectives_beat_random(objectives: tuple[str, ...]) -> None:
    from search.bench import replay

    problem = SyntheticProblem(objectives)
    ours = replay(problem, "known-cost", 0, 30)
    random = replay(problem, "random", 0, 30)
    assert ours.hypervolume[-1] > random.hypervolume[-1]
    assert ours.rejected == 0


def test_costs_that_nobody_knows_are_left_out(problem: SyntheticProblem) -> None:
    def bytes_only(params: Mapping[str, Any]) -> dict[str, float]:
        return {"deployed_bytes": problem.costs(params)["deployed_bytes"]}

    limits = {"deployed_bytes": 1e6, "latency_ms": 3.0}
    study = make_study(KnownCosts(problem.space, bytes_only, problem.objectives, limits))
    for number in range(14):
        trial = propose(problem, study)
        assert problem.costs(trial.params)["deployed_bytes"] <= 1e6
        tell(problem, study, trial, problem.evaluate(trial.params, number)[-1])


def test_without_costs_it_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="needs to know the costs"):
        PerTrialSampler("known-cost", 0)
    with pytest.raises(ValueError, match="quality"):
        KnownCosts(JointSpace(SpaceSpec()), lambda params: {}, ("latency_ms",))


def _fit(x: np.ndarray, y: np.ndarray, believed: np.ndarray) -> GaussianProcess:
    return GaussianProcess(x, y, fit_scales(x, y, np.zeros(x.shape[1])), believed)


def test_rungs_tell_what_whole_trainings_come_to() -> None:
    """40 trainings stopped at a rung beside 8 whole ones: their mean error by what the rung says, of six draws."""
    found: dict[str, list[float]] = {}
    for seed in range(6):
        generator = np.random.default_rng(seed)
        x = generator.standard_normal((148, 4))
        final = 0.8 + 0.03 * x[:, 0] - 0.02 * x[:, 1] ** 2 + 0.01 * x[:, 2]
        rungs = {
            "useful": 0.5 + 0.4 * (final - 0.8) + generator.normal(0, 0.001, 148),
            "flattering": 0.5 + 0.4 * (final - 0.8) + 0.008 * x[:, 3],  # the more of this feature, the earlier
            "useless": generator.normal(0.5, 0.02, 148),
        }
        for name, rung in rungs.items():
            qualities = np.column_stack((rung, final))
            qualities[8:48, 1] = np.nan
            means, deviations = CoKriging(x[:48], qualities[:48], np.zeros(48, dtype=bool), _fit, _fit).predict(x[48:])
            assert np.abs(means - final[48:]).mean() < 3 * deviations.mean()
            found.setdefault(name, []).append(float(np.abs(means - final[48:]).mean()))
        middle, spread = final[:8].mean(), final[:8].std()
        process = _fit(x[:8], (final[:8] - middle) / spread, x[:0])
        found.setdefault("none", []).append(float(np.abs(middle + spread * process.mean(x[48:]) - final[48:]).mean()))
    errors = {name: np.mean(each) for name, each in found.items()}
    assert errors["useful"] < 0.25 * errors["none"]
    assert errors["flattering"] < 0.75 * errors["none"]
    assert errors["useless"] < 1.15 * errors["none"]


def test_what_a_trial_has_of_its_own_counts_as_far_as_it_lasts() -> None:
    """A deviation at the rung from what others of its kind have there is luck in one case, and stays in the other."""
    generator = np.random.default_rng(0)
    x, own = generator.standard_normal((60, 3)), generator.normal(0, 0.02, 60)
    expected = 0.6 + 0.03 * x[:, 0]
    for stays in (True, False):
        final = expected + 0.2 + (own if stays else generator.normal(0, 0.001, 60))
        rung = expected + own
        qualities = np.column_stack((rung, np.where(np.arange(60) < 20, final, np.nan)))
        model = CoKriging(x, qualities, np.zeros(60, dtype=bool), _fit, _fit)
        alike, _ = model.predict(x[20:])
        alone, _ = model.predict(x[20:], rung[20:, None])
        errors = [float(np.abs(means - final[20:]).mean()) for means in (alike, alone)]
        assert errors[1] < 0.5 * errors[0] if stays else errors[1] < errors[0] + 0.003


def test_equal_qualities_leave_numbers() -> None:
    generator = np.random.default_rng(0)
    x, none = generator.standard_normal((20, 3)), np.zeros(20, dtype=bool)
    rung = 0.5 + 0.05 * x[:, 0]
    for qualities in (
        np.column_stack((rung, np.where(np.arange(20) < 4, 0.9, np.nan))),
        np.column_stack((np.full(20, 0.5), rung)),
        np.column_stack((rung, np.full(20, 0.5), np.where(np.arange(20) < 4, rung, np.nan))),
    ):
        model = CoKriging(x, qualities, none, _fit, _fit)
        means, deviations = model.predict(x, qualities[:, :-1])
        assert np.isfinite(means).all()
        assert np.isfinite(deviations).all()
        assert np.isfinite(model.moves(x)).all()


def test_trials_without_a_number_and_failed_ones_count_as_the_worst_at_their_rung(
    problem: SyntheticProblem, known: KnownCosts
) -> None:
    study = make_study(known)
    for quality in (0.7, 0.6, float("nan"), None):
        trial = propose(problem, study)
        if quality is not None:
            trial.set_user_attr(RUNGS, [{"rung": 0, "quality": quality}])
        study.tell(trial, state=TrialState.FAIL if quality is None else TrialState.PRUNED)
    history = History.of(study.trials, known)
    assert sorted(history.believed_rungs[:, 0]) == [0.6, 0.6, 0.6, 0.7]
    assert not history.running.any()
    tell(problem, study, propose(problem, study), 0.9)
    assert History.of(study.trials, known).qualities.tolist() == [0.9]


def test_quality_at_the_last_rung_stands_for_that_of_whole_trainings_until_there_is_one() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((12, 3))
    rung = 0.6 + 0.05 * x[:, 0]
    none = np.zeros(12, dtype=bool)
    model = CoKriging(x, np.column_stack((rung, np.full(12, np.nan))), none, _fit, _fit)
    assert np.corrcoef(model.predict(x)[0], rung)[0, 1] > 0.95
    assert (model.moves(x) == 0).all()
    finished = np.where(np.arange(12) < 3, rung + 0.2, np.nan)
    model = CoKriging(x, np.column_stack((rung, finished)), none, _fit, _fit)
    assert model.predict(x)[0].mean() > rung.mean() + 0.15
    assert (model.moves(x + 2) > 0).all()
    assert (model.moves(x + 2) < model.predict(x + 2)[1]).all()
    assert not CoKriging(x[:3], np.full((3, 2), np.nan), none[:3], _fit, _fit)


def test_what_runs_counts_as_observed_at_its_prediction() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((14, 3))
    qualities = np.column_stack((0.6 + 0.05 * x[:, 0], 0.8 + 0.05 * x[:, 0]))
    qualities[8:, 1] = np.nan
    qualities[13, 0] = np.nan
    running = np.arange(14) >= 12  # one that goes on from a rung, and one that has just begun
    without = CoKriging(x, qualities, np.zeros(14, dtype=bool), _fit, _fit).predict(x)
    means, deviations = CoKriging(x, qualities, running, _fit, _fit).predict(x)
    assert (deviations[12:] < without[1][12:]).all()
    assert deviations[13] < 0.8 * without[1][13]
    assert means == pytest.approx(without[0], abs=0.005)


def test_the_mean_alone_is_that_of_the_prediction() -> None:
    generator = np.random.default_rng(0)
    x, qualities = generator.standard_normal((30, 3)), generator.standard_normal((30, 3))
    qualities[9:, 2] = qualities[20:, 1] = np.nan
    model = CoKriging(x, qualities, np.zeros(30, dtype=bool), _fit, _fit)
    for passed in (None, qualities[:, :2]):
        assert (model.mean(x, passed) == model.predict(x, passed)[0]).all()


def test_stopped_trials_teach_and_are_no_part_of_the_front(problem: SyntheticProblem, known: KnownCosts) -> None:
    study = make_study(known)
    for number in range(14):
        trial = propose(problem, study)
        qualities = problem.evaluate(trial.params, number)
        reached = 1 if number % 3 else 3
        passed = [{"rung": rung, "quality": qualities[rung]} for rung in range(min(reached, 2))]
        trial.set_user_attr(RUNGS, passed)
        if reached == 3:
            tell(problem, study, trial, qualities[-1])
        else:
            study.tell(trial, state=TrialState.PRUNED)
    history = History.of(study.trials, known)
    assert history.observed_rungs.shape == (5, 2)
    assert history.believed_rungs.shape == (9, 2)
    assert np.isfinite(history.believed_rungs[:, 0]).all()
    assert np.isnan(history.believed_rungs[:, 1]).all()
    told = propose(problem, study).params
    forgetful = make_study(known)
    for trial in study.trials[:-1]:
        attributes = {} if trial.state == TrialState.PRUNED else trial.user_attrs
        forgetful.add_trial(
            create_trial(
                state=trial.state,
                params=trial.params,
                distributions=trial.distributions,
                values=trial.values,
                user_attrs=attributes,
                system_attrs=trial.system_attrs,
            )
        )
    assert propose(problem, forgetful).params != told


def test_means_at_observed_points_are_those_of_the_model() -> None:
    generator = np.random.default_rng(1)
    x, believed = generator.standard_normal((20, 3)), generator.standard_normal((4, 3))
    y = x[:, 0] + 0.1 * generator.standard_normal(20)
    process = GaussianProcess(x, y, fit_scales(x, y, np.zeros(3)), believed)
    assert process.observed_means == pytest.approx(process.mean(np.concatenate((x, believed))), abs=1e-8)


def test_variants_of_all_families_are_whole_configurations() -> None:
    """A family has parameters on whose value others depend: both are filled in where a variant changes the family."""
    space = JointSpace(SpaceSpec(families=["transformer", "birnn", "conv"], conv={"depth": {"low": 0, "high": 4}}))
    layout, generator = Layout(space), np.random.default_rng(0)
    rows = layout.draw(generator, 300)
    family = layout.column("family")
    varied = layout.vary(rows, generator, 0.2, np.arange(len(layout)) == family)
    assert (varied[:, family] != rows[:, family]).all()
    crossed = layout.cross(rows, rows[::-1], generator)
    for row in (*varied, *crossed):
        params = layout.params(row)
        space.from_params(params)  # raises where one is missing
        assert layout.row(params) is not None
