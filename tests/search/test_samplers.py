"""What every sampler must do, on every storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.bench import SyntheticProblem
from search.samplers import SAMPLERS, PerTrialSampler, SamplerName, place, seeds
from search.samplers.known_cost import KnownCosts
from search.states import ANSWERED_BY
from search.storage import open_storage
from search.study_file import load_study_file

# Trials that take a sampler beyond its start; Optuna's Gaussian process takes a second for each from then on.
ENOUGH = {"gp": 12, "nsga2": 20}

EngineMaker = Callable[..., Any]


@pytest.fixture(params=["default", "url"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return None if request.param == "default" else f"sqlite:///{tmp_path}/somewhere else/study.db"


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_runs_a_study_within_the_limits(make_engine: EngineMaker, sampler: str, url: str | None) -> None:
    engine = make_engine(url=url, sampler=sampler, trials=ENOUGH.get(sampler, 16))
    engine.run()
    trials = engine.study.get_trials()
    states = [trial.state.name for trial in trials]
    answered = [trial for trial in trials if ANSWERED_BY in trial.user_attrs]  # the same configuration twice
    assert states.count("COMPLETE") - len(answered) == ENOUGH.get(sampler, 16)
    assert set(states) <= {"COMPLETE", "PRUNED"}
    for trial in trials:
        assert set(trial.constraints) == {"deployed_bytes"}
        feasible = trial.constraints["deployed_bytes"] <= 0
        assert feasible == (trial.state.name == "COMPLETE")


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_stopped_and_resumed_proposes_as_uninterrupted(make_engine: EngineMaker, sampler: str, tmp_path: Path) -> None:
    whole = make_engine(url=f"sqlite:///{tmp_path}/whole.db", sampler=sampler, trials=ENOUGH.get(sampler, 16), seed=7)
    whole.run()
    stopped = f"sqlite:///{tmp_path}/stopped.db"
    for most in (5, 9, None):
        part = make_engine(url=stopped, sampler=sampler, trials=ENOUGH.get(sampler, 16), seed=7, name="toy2")
        part.ledger.recover()
        part.run(most)
    assert part.proposals() == whole.proposals()


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_killed_in_mid_trial_and_resumed_proposes_as_uninterrupted(
    make_engine: EngineMaker, sampler: str, tmp_path: Path
) -> None:
    whole = make_engine(url=f"sqlite:///{tmp_path}/whole.db", sampler=sampler, trials=ENOUGH.get(sampler, 16), seed=3)
    seeds_of_whole = {}
    while not whole.ledger.exhausted:
        assignment = whole.ledger.next()
        seeds_of_whole[len(seeds_of_whole)] = assignment.seed
        whole.work(assignment)
        whole.ledger.settle(assignment.number)
    killed = f"sqlite:///{tmp_path}/killed.db"
    seeds_of_killed = {}
    for most in (4, 6, None):
        part = make_engine(url=killed, sampler=sampler, trials=ENOUGH.get(sampler, 16), seed=3, name="toy3")
        part.ledger.recover()
        while not part.ledger.exhausted and most != 0:
            assignment = part.ledger.next()
            seeds_of_killed[part.ledger.counts.trained] = assignment.seed
            part.work(assignment)
            part.ledger.settle(assignment.number)
            most = None if most is None else most - 1
        if not part.ledger.exhausted:
            part.ledger.next()  # handed out, and never heard of again
            part.study.ask()  # being asked for
    assert [trial.state.name for trial in part.study.get_trials()].count("FAIL") == 4
    assert part.proposals() == whole.proposals()
    assert seeds_of_killed == seeds_of_whole


def test_seeds_differ_between_trials_and_studies() -> None:
    found = [seeds(study, number) for study in range(20) for number in range(50)]
    assert len({draw for draw, _ in found}) == len(found)
    assert len({training for _, training in found}) == len(found)
    assert seeds(0, 0) == seeds(0, 0)


def test_place_counts_as_if_nothing_was_orphaned(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/x.db"))
    for _ in range(3):
        study.ask()
    study.enqueue_trial({}, user_attrs={"retry_of": 2, "place": 2})
    study.ask()
    study.ask()
    assert [place(study, trial) for trial in study.get_trials()] == [0, 1, 2, 2, 3]


def test_random_sampler_gives_the_same_whatever_was_told(toy_file: Path) -> None:
    file = load_study_file(toy_file)
    sampler = PerTrialSampler("random", file.search.seed)
    one, two = (optuna.create_study(sampler=sampler) for _ in range(2))
    for study in (one, two):
        for _ in range(3):
            study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 0.0)
    assert [trial.params for trial in one.trials] == [trial.params for trial in two.trials]


OBJECTIVES = [("quality",), ("quality", "latency_ms"), ("quality", "latency_ms", "deployed_bytes")]


def proposals(problem: SyntheticProblem, sampler: SamplerName, seed: int) -> list[dict[str, Any]]:
    """What a sampler proposes to four workers, some of whose trials fail, are infeasible or never end."""
    known = KnownCosts(problem.space, problem.costs, problem.objectives, problem.limits, problem.reference)
    directions = ["maximize" if name == "quality" else "minimize" for name in problem.objectives]
    study = optuna.create_study(directions=directions, sampler=PerTrialSampler(sampler, seed, known))
    running: list[optuna.Trial] = []
    found = []
    while len(found) < ENOUGH.get(sampler, 16) + 6:
        trial = study.ask()
        config, recipe = problem.space.suggest(trial)  # raises for a value that is not of the space
        assert problem.space.to_params(config, recipe) == trial.params
        found.append(trial.params)
        costs = problem.costs(trial.params)
        excess = {name: costs[name] / limit - 1 for name, limit in problem.limits.items()}
        for name, value in excess.items():
            trial.set_constraint(name, value)
        if max(excess.values()) > 0:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        running.append(trial)
        if len(running) < 4:
            continue
        done = running.pop(len(found) % 3)  # the last of the four is the one that stays
        if done.number % 7 == 3:
            study.tell(done, state=TrialState.FAIL)
            continue
        costs = problem.costs(done.params)
        values = {"quality": problem.evaluate(done.params, done.number)[-1], **costs}
        study.tell(done, [values[name] for name in problem.objectives])
    return found


@pytest.mark.parametrize("objectives", OBJECTIVES, ids=["one", "two", "three"])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_proposals_are_of_the_space_and_follow_from_the_seed(sampler: SamplerName, objectives: tuple[str, ...]) -> None:
    problem = SyntheticProblem(objectives)
    found = proposals(problem, sampler, 5)
    assert proposals(problem, sampler, 5) == found
    assert proposals(problem, sampler, 6)[0] != found[0]
    assert len({str(sorted(params.items())) for params in found}) > 0.8 * len(found)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_goes_on_after_failed_trials(make_engine: EngineMaker, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_TOY_FAIL", ",".join(map(str, range(0, 60, 4))))
    monkeypatch.setenv("SHOEBOX_TOY_NAN", ",".join(map(str, range(1, 60, 4))))
    engine = make_engine(sampler=sampler, trials=10)
    engine.run()
    counts = engine.ledger.counts
    assert counts.trained == 10
    assert counts.failed >= 3
