"""The benchmark of samplers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search.bench import Contender, SyntheticProblem, compare, record, replay
from search.bench.fidelity import correlations
from search.bench.folder import append_trial, read_folder, write_setting
from search.bench.recorded import RecordedProblem
from search.bench.recording import RecordedTrial, joined
from search.bench.table import STUDIES, read_recording, recording_path, shipped_recording, study_path, write_recording
from search.study_file import StudyFile, load_study_file
from space.errors import InputError

Shoebox = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", params=STUDIES)
def recorded(request: pytest.FixtureRequest) -> RecordedProblem:
    return RecordedProblem(request.param, ("quality", "latency_ms", "deployed_bytes"))


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
    draws = [problem.evaluate(params, seed)[-1] for seed in range(400)]
    assert problem.evaluate(params, 7)[-1] == draws[7]
    assert np.mean(draws) == pytest.approx(problem.quality(params), abs=0.002)
    assert np.std(draws) == pytest.approx(0.01, rel=0.15)


def test_comparison_says_when_a_target_is_reached() -> None:
    random, sobol, stopping = Contender("random"), Contender("qmc"), Contender("random", early_stopping=True)
    found = compare(SyntheticProblem(), [random, sobol, stopping], seeds=2, trials=30)
    curves = [one.hypervolume for one in found.replays[random]]
    mean = np.mean(curves, axis=0)
    assert found.marks() == {"random@30": mean[-1]}
    reached = found.reach(random, float(mean[-1]))
    assert reached.trials is not None
    assert mean[reached.trials - 1] == mean[-1]
    assert reached.trials == 1 or mean[reached.trials - 2] < mean[-1]
    assert reached.cost == pytest.approx(reached.trials, rel=0.3)
    for curve, cost, one in zip(curves, reached.seeds, found.replays[random], strict=True):
        first = next((i for i, value in enumerate(curve) if value >= mean[-1]), None)
        assert cost == (None if first is None else one.cost[first] / found.unit)
    assert found.reach(sobol, 1e9).trials is None
    assert found.checkpoints() == [15, 25, 30]


def test_early_stopping_trains_few_to_the_end_and_counts_all_that_it_trains() -> None:
    problem = SyntheticProblem()
    whole = replay(problem, "random", 0, 60)
    stopped = replay(problem, "random", 0, 60, early_stopping=True)
    assert len(whole.hypervolume) == 60
    assert 50 <= stopped.trained[-1] <= 60
    assert 4 <= len(stopped.hypervolume) <= 20
    assert stopped.cost[-1] < 0.45 * whole.cost[-1]
    assert stopped.cost[-1] == pytest.approx(stopped.clock[-1])  # of one worker
    # The same proposals: what is trained to the end is among what was trained without stopping.
    assert stopped.hypervolume[-1] > 0.8 * whole.hypervolume[-1]


def test_workers_are_never_idle_while_there_is_something_to_train() -> None:
    stopped = replay(SyntheticProblem(), "random", 0, 60, workers=4, early_stopping=True)
    assert stopped.busy > 0.9
    assert stopped.broken == 0


def test_known_cost_does_more_with_early_stopping_than_without() -> None:
    """At the cost of twelve whole trainings, whether one worker spends it or four."""
    problem = SyntheticProblem()
    whole = replay(problem, "known-cost", 0, 12)
    for workers in (1, 4):
        stopped = replay(problem, "known-cost", 0, 50, workers=workers, early_stopping=True)
        ends = zip(stopped.hypervolume, stopped.cost, strict=True)
        found = max(hypervolume for hypervolume, cost in ends if cost <= whole.cost[-1])
        assert found > whole.hypervolume[-1] + 0.05
        assert stopped.busy > 0.85
        assert stopped.broken == stopped.duplicates == 0


def test_command_prints_table_and_json(shoebox: Shoebox) -> None:
    arguments = ["--problem", "synthetic", "--seeds", "2", "--trials", "16"]
    printed = shoebox("bench-samplers", "--samplers", "random,random+halving", *arguments)
    assert printed.returncode == 0
    assert "2 seeds" in printed.stdout
    assert "random+halving" in printed.stdout
    assert "random@16" in printed.stdout
    printed = shoebox("bench-samplers", "--samplers", "random", *arguments, "--format", "json")
    answer = json.loads(printed.stdout)
    curves = [seed["hypervolume"] for seed in answer["samplers"]["random"]["seeds"]]
    assert answer["samplers"]["random"]["mean"]["16"] == pytest.approx(np.mean([curve[-1] for curve in curves]))


def test_command_refuses_unknown_names(shoebox: Shoebox) -> None:
    for arguments, word in (
        (["--samplers", "tpee"], "'tpe'"),
        (["--samplers", "tpe,tpe"], "twice"),
        (["--objectives", "latency_ms"], "quality"),
        (["--objectives", "quality,size"], "'size'"),
        (["--fit", "--json"], "Leave out --json."),
        (["--fit", "--seeds", "10", "--trials", "5", "--workers", "1"], "Leave out --seeds, --trials, --workers."),
        (["--fit", "--problem", "sst2", "--samplers", "tpe"], "Leave out --samplers."),
        (["--fit", "--problem", "synthetic"], "Take another --problem."),
        (["--format", "table", "--json", "--problem", "synthetic"], "--json and --format table are two answers"),
    ):
        printed = shoebox("bench-samplers", *arguments)
        assert printed.returncode == 2
        assert word in printed.stderr


def test_wrong_use_of_the_recorder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none, packed, done = (str(tmp_path / name) for name in ("none", "packed.json", "done"))
    Path(done).mkdir()
    write_setting(Path(done), shipped_recording("sst2").setting)
    begun = tmp_path / "begun"
    begun.mkdir()
    write_setting(begun, shipped_recording("banking77").setting)
    append_trial(begun, shipped_recording("banking77").trials[0])
    for arguments, said in (
        ([none, "--data", "/no/such/folder"], "record: --data: there is no folder /no/such/folder."),
        ([none, "--pack", packed], "record: [Errno 2] No such file or directory"),
        ([none, none], "record: Only --pack takes several folders."),
        ([done, "--study", "banking77"], f"record: {done} holds a recording of another study."),
        ([str(begun), "--study", "banking77", "--seed", "7"], f"record: {begun} holds a recording with another seed."),
    ):
        with pytest.raises(SystemExit) as ended:
            record.main(arguments)
        assert ended.value.code == 2
        printed = capsys.readouterr().err
        assert printed.startswith(said)
        assert len(printed.splitlines()) == 1


def test_recorded_problem_answers_what_was_recorded(recorded: RecordedProblem) -> None:
    problem = recorded
    trials = problem.recording.configurations()
    for trial in trials[::9]:
        costs = problem.costs(trial.params)
        assert costs["deployed_bytes"] == trial.deployed_bytes <= problem.limits["deployed_bytes"]
        assert costs["latency_ms"] == pytest.approx(trial.latency_ms, abs=1e-4)
        assert costs["long_latency_ms"] == pytest.approx(trial.long_latency_ms, abs=1e-4)
    qualities = [problem.quality(trial.params) for trial in trials]
    assert np.corrcoef(qualities, [trial.quality for trial in trials])[0, 1] > 0.8
    seconds = [problem.seconds(trial.params) for trial in trials]
    assert np.corrcoef(np.log(seconds), np.log([trial.rung_seconds[-1] for trial in trials]))[0, 1] > 0.8


def test_recorded_noise_is_that_of_repeated_trainings(recorded: RecordedProblem) -> None:
    problem = recorded
    params = problem.recording.trials[0].params
    drawn = np.array([problem.evaluate(params, seed) for seed in range(300)])
    assert problem.evaluate(params, 5) == tuple(drawn[5])
    assert drawn[:, -1].mean() == pytest.approx(problem.quality(params), abs=0.003)
    differences = [first.quality - second.quality for first, second in problem.recording.pairs()]
    assert drawn[:, -1].std() == pytest.approx(np.std(differences) / np.sqrt(2), rel=0.3)


def test_exported_files_agree_with_the_students_that_were_trained(recorded: RecordedProblem) -> None:
    recording = recorded.recording
    both = [(trial.quality, trial.torch_quality) for trial in recording.trials if trial.torch_quality is not None]
    assert len(both) >= 20
    examples = recording.setting.validation_examples
    assert all(abs(exported - trained) * examples <= 10 for exported, trained in both)


def test_recordings_are_of_their_studies(recorded: RecordedProblem) -> None:
    study = load_study_file(study_path(recorded.name))
    setting = recorded.recording.setting
    file = StudyFile.model_validate(setting.study)
    assert (file.space, file.fidelity, file.task) == (study.space, study.fidelity, study.task)
    assert study.search.early_stopping is not None
    assert setting.rungs == (*study.search.early_stopping.shares(), 1.0)
    assert len(recorded.recording.configurations()) >= 300


@pytest.mark.parametrize("name", STUDIES)
def test_recording_survives_its_file(name: str, tmp_path: Path) -> None:
    recording, shipped = shipped_recording(name), recording_path(name)
    write_recording(recording, tmp_path / "again.json")
    assert read_recording(tmp_path / "again.json") == recording
    assert (tmp_path / "again.json").read_bytes() == shipped.read_bytes()
    assert shipped.stat().st_size < 300_000


def test_recordings_are_joined_with_their_repetitions() -> None:
    recording = shipped_recording("sst2")
    first, second = (recording.model_copy(update={"trials": recording.trials[:count]}) for count in (20, 30))
    whole = joined([first, second])
    assert [trial.number for trial in whole.trials] == list(range(50))

    def told(one: RecordedTrial, again: RecordedTrial) -> tuple[object, ...]:
        return one.params, one.rungs, again.rungs

    assert [told(*pair) for pair in whole.pairs()] == [told(*pair) for pair in (*first.pairs(), *second.pairs())]
    with pytest.raises(InputError, match="differ in their study"):
        joined([first, recording.model_copy(update={"setting": shipped_recording("banking77").setting})])


def test_a_trial_that_was_cut_off_is_recorded_again(tmp_path: Path) -> None:
    recording = shipped_recording("sst2")
    write_setting(tmp_path, recording.setting)
    for trial in recording.trials[:3]:
        append_trial(tmp_path, trial)
    path = tmp_path / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert read_folder(tmp_path).trials == recording.trials[:2]
    append_trial(tmp_path, recording.trials[2])
    assert read_folder(tmp_path) == recording.model_copy(update={"trials": recording.trials[:3]})


def test_correlations_compare_cheap_trainings_with_whole_ones(recorded: RecordedProblem) -> None:
    recording = recorded.recording
    found = {each.fidelity: each for each in correlations(recording)}
    assert found["0.33 of the steps"].trials == len(recording.configurations())
    assert found["0.33 of the steps"].spearman > found["0.11 of the steps"].spearman > 0
    assert found["1/3 of the data, another seed"].trials == len(recording.pairs())
