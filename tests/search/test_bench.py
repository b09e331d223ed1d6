"""The benchmark of samplers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import numpy as np
import pytest

from search.bench import SyntheticProblem, compare, replay

Shoebox = Callable[..., subprocess.CompletedProcess[str]]


def test_replay_depends_on_the_seed_alone() -> None:
    problem = SyntheticProblem()
    one, two, other = (replay(problem, "known-cost", seed, 15, workers=2) for seed in (0, 0, 1))
    assert one.hypervolume == two.hypervolume
    assert one.clock == two.clock
    assert one.hypervolume != other.hypervolume


def test_hypervolume_never_falls_and_infeasible_proposals_are_not_trained() -> None:
    found = replay(SyntheticProblem(), "random", 0, 40)
    assert len(found.hypervolume) == 40
    assert (np.diff(found.hypervolume) >= 0).all()
    assert found.rejected > 0
    assert len(found.ask_seconds) == 40 + found.rejected


def test_workers_share_the_virtual_time() -> None:
    problem = SyntheticProblem()
    alone, four = (replay(problem, "random", 0, 40, workers) for workers in (1, 4))
    assert (np.diff(four.clock) >= 0).all()
    assert 3.2 < alone.clock[-1] / four.clock[-1] < 4.2


def test_noise_is_of_the_seed_and_not_what_is_reported() -> None:
    problem = SyntheticProblem(noise=0.01)
    params = problem.space.to_params(*problem.space.draw(np.random.default_rng(0)))
    draws = [problem.evaluate(params, seed) for seed in range(400)]
    assert problem.evaluate(params, 7) == draws[7]
    assert np.mean(draws) == pytest.approx(problem.quality(params), abs=0.002)
    assert np.std(draws) == pytest.approx(0.01, rel=0.15)


def test_comparison_says_when_a_target_is_reached() -> None:
    found = compare(SyntheticProblem(), ["random", "qmc"], seeds=2, trials=30)
    mean = np.mean([one.hypervolume for one in found.replays["random"]], axis=0)
    reached = found.trials_to("random", float(mean[-1]))
    assert reached is not None
    assert mean[reached - 1] == mean[-1]
    assert reached == 1 or mean[reached - 2] < mean[-1]
    assert found.trials_to("qmc", 1e9) is None
    assert found.checkpoints() == [15, 25, 30]


def test_command_prints_table_and_json(shoebox: Shoebox) -> None:
    printed = shoebox("bench-samplers", "--samplers", "random,tpe", "--seeds", "2", "--trials", "16")
    assert printed.returncode == 0
    assert "2 seeds" in printed.stdout
    assert "random" in printed.stdout
    printed = shoebox("bench-samplers", "--samplers", "random", "--seeds", "2", "--trials", "16", "--format", "json")
    answer = json.loads(printed.stdout)
    curves = [seed["hypervolume"] for seed in answer["samplers"]["random"]["seeds"]]
    assert answer["samplers"]["random"]["mean"]["16"] == pytest.approx(np.mean([curve[-1] for curve in curves]))


def test_command_refuses_unknown_names(shoebox: Shoebox) -> None:
    for arguments, word in (
        (["--samplers", "tpee"], "'tpe'"),
        (["--samplers", "tpe,tpe"], "twice"),
        (["--objectives", "latency_ms"], "quality"),
        (["--objectives", "quality,size"], "'size'"),
    ):
        printed = shoebox("bench-samplers", *arguments)
        assert printed.returncode == 2
        assert word in printed.stderr
