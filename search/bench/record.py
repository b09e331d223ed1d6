"""Record real trials for the tabulated benchmark.

    python -m search.bench.record FOLDER [--study sst2] [--data DIR] [--trials 330] [--seed 0]
    python -m search.bench.record FOLDER [FOLDER ...] --pack sst2.json

trains the configurations of `sst2.yaml`, or of `banking77.yaml`, one after the other and writes each to the folder as
soon as it has ended; a stopped recording goes on with the same command. DIR holds `train.*` and `validation.*` with the
columns that the study names; without it they come from the hub. Everything follows from the study file, the seed and
the number of the trial: on the same kind of machine, with the same versions and one thread, a second recording has the
same qualities (seconds differ). Recordings with different seeds can be made side by side, and are packed together.

Of fifteen trials nine are random feasible configurations, three are variants of a trial of the front so far, and two
are proposed by the known-cost sampler, so that the region that a search ends in is covered, whoever searches. The
fifteenth repeats a random one with another seed, and trains it also on shares of the data: that tells the noise and
whether steps or data are the better low fidelity.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from objectives.latency import LatencyModel, load_profile
from objectives.latency.recorded import load_estimates
from objectives.pareto import non_dominated
from runners.batches import Encoded
from runners.distill import Distillation, DivergedError
from runners.evaluate import open_session, run_model, run_student
from runners.initialization import start_from_embeddings, start_from_layers
from runners.plan import ONLY, FidelitySpec, TrialPlan
from runners.prepared import Prepared, prepare
from runners.record import library_versions
from runners.teacher.origin import Origin, mean_statistics
from search.bench.folder import SETTING, append_trial, read_folder, write_setting
from search.bench.recording import KeptVocabulary, RecordedTrial, Setting, joined
from search.bench.sample import with_sample
from search.bench.table import STUDIES, study_path, write_recording
from search.samplers import PerTrialSampler, seeds
from search.samplers.known_cost import KnownCosts
from search.samplers.known_cost.layout import Layout
from search.study_file import StudyFile, load_study_file
from space.errors import InputError
from space.families import Student, build_student, deployed_bytes, export_model
from space.joint import JointSpace

logger = logging.getLogger("shoebox.search.bench")

TRAIN_EXAMPLES = 8192
SUBSETS = {"1/9": 1 / 9, "1/3": 1 / 3}
BOTH = 5  # of so many trials one is judged as a torch student too, for comparison with the exported file
PERIOD = 15  # the last trial of so many repeats the one in their middle


class Recorder:
    """Trains the trials of a recording.

    Args:
        folder: of the recording; holds a sample of the data, `setting.json` and `trials.jsonl`.
        study: one of `STUDIES`.
        data: folder with `train.*` and `validation.*`, or None for the hub.
        seed: of the trials, by default that of the study; the sample of the data is that of the study's.
        examples: of the train split.
    """

    def __init__(
        self,
        folder: Path,
        study: str,
        data: str | None = None,
        seed: int | None = None,
        examples: int = TRAIN_EXAMPLES,
    ) -> None:
        self.folder = folder
        self._study = load_study_file(study_path(study))
        seed = self._study.search.seed if seed is None else seed
        self.trials = self._done(seed)
        self.file = with_sample(load_study_file(study_path(study), {"data": data}), folder / "data", examples)
        search = self.file.search.model_copy(update={"seed": seed})
        self.file = self.file.model_copy(update={"search": search})
        stopping = self.file.search.early_stopping
        assert stopping is not None
        self._rungs, self._examples = (*stopping.shares(), 1.0), stopping.examples
        self.space = JointSpace(self.file.space)
        self.layout = Layout(self.space)
        self.prepared = prepare(self.plan)
        self.setting = self._setting()
        taught = self.prepared.tasks[ONLY]
        self._origin = Origin.of([taught.teacher])
        self._encoder = self._origin.encoder()
        self._statistics = mean_statistics([taught.statistics()])
        self._latency = LatencyModel(load_profile(self.file.device.profile))
        limits = {"deployed_bytes": float(self.file.limits.deployed_bytes)}
        self._known = KnownCosts(self.space, self.costs, self.file.objectives, limits)
        self._validation: dict[tuple[int, int | None], Encoded] = {}
        write_setting(folder, self.setting)

    @property
    def plan(self) -> TrialPlan:
        """Of the trials."""
        return self.file.plan()

    def _done(self, seed: int) -> list[RecordedTrial]:
        """What the folder holds already, which is asked before a teacher is tuned for another recording."""
        if not (self.folder / SETTING).exists():
            return []
        done = read_folder(self.folder)
        if StudyFile.model_validate(done.setting.study) != self._study:
            raise InputError(f"{self.folder} holds a recording of another study.", "Take another folder.")
        if any(trial.seed != seeds(seed, trial.number)[1] for trial in done.trials):
            raise InputError(
                f"{self.folder} holds a recording with another seed.", "Take another folder, or that seed."
            )
        return list(done.trials)

    def _setting(self) -> Setting:
        vocabulary = self.prepared.vocabulary
        kept = []
        for keep in self.file.space.vocabulary_keep.values:  # type: ignore[attr-defined]
            entries = vocabulary.size(keep)
            kept.append(
                KeptVocabulary(
                    keep=keep,
                    entries=entries,
                    file_bytes=vocabulary.file_bytes(entries),
                    lengths=self.prepared.text_lengths(entries),
                )
            )
        taught = self.prepared.tasks[ONLY]
        fidelity = self.file.fidelity
        return Setting(
            study=self._study.model_dump(mode="json"),
            shape=self.prepared.shape,
            vocabulary=tuple(kept),
            train_examples=len(taught.task.train),
            validation_examples=len(taught.task.validation),
            rungs=self._rungs,
            steps=round(math.ceil(len(taught.task.train) / fidelity.batch_size) * fidelity.epochs),
            teacher_quality=taught.teacher.validation_quality,
            versions=library_versions(),
            estimates=load_estimates(load_profile(self.file.device.profile)),
        )

    def costs(self, params: Any) -> dict[str, float]:
        """Bytes and predicted latencies of a configuration."""
        config = self.space.config_from(params)
        entries = self.prepared.vocabulary.size(config.vocabulary_keep)
        lengths = self.prepared.text_lengths(entries)
        found = [self._latency.predict(config, self.prepared.shape, entries, tokens).milliseconds for tokens in lengths]
        size = deployed_bytes(config, self.prepared.shape, self.prepared.vocabulary)
        return {"deployed_bytes": float(size), "latency_ms": found[0], "long_latency_ms": found[1]}

    def record(self, trials: int) -> None:
        """Go on until there are so many trials."""
        for number in range(len(self.trials), trials):
            trial = self._trial(number)
            self.trials.append(trial)
            append_trial(self.folder, trial)
            told = [number, trial.origin, *(f"{quality:.3f}" for quality in trial.rungs)]
            logger.info("%s", " ".join(map(str, [*told, f"{trial.rung_seconds[-1]:.1f} s"])))

    def _trial(self, number: int) -> RecordedTrial:
        repeats, subsets = None, {}
        if number % PERIOD == PERIOD - 1:
            repeats = number - PERIOD // 2 - 1
            origin, params = "repeat", self.trials[repeats].params
        else:
            origin, params = self._choose(number)
        seed = seeds(self.file.search.seed, number)[1]
        found = self.train(params, seed, both=number % BOTH == 0)
        if repeats is not None:
            for name, share in SUBSETS.items():
                count = round(share * self.setting.train_examples)
                subsets[name] = self.train(params, seed, count, rungs=(1.0,))["rungs"][-1]
        costs = self.costs(params)
        if costs["deployed_bytes"] != found["deployed_bytes"]:
            raise AssertionError(f"trial {number} takes {found['deployed_bytes']} bytes, not {costs['deployed_bytes']}")
        rounded = {name: round(costs[name], 4) for name in ("latency_ms", "long_latency_ms")}
        known = {"number": number, "origin": origin, "repeats": repeats, "seed": seed, "params": params}
        return RecordedTrial.model_validate({**known, **found, **rounded, "subsets": subsets})

    def _choose(self, number: int) -> tuple[str, dict[str, Any]]:
        """How trial `number` finds its configuration, and which."""
        generator = np.random.default_rng([self.file.search.seed, number])
        turn = number % 5
        done = [trial for trial in self.trials if trial.repeats is None]
        if turn < 3 or len(done) < PERIOD:
            while True:
                params = self.layout.params(self.layout.draw(generator, 1)[0])
                if self._feasible(params):
                    return "random", _rounded(params)
        if turn == 4:
            return "known-cost", _rounded(self._proposed())
        values = [[trial.quality, trial.latency_ms] for trial in done]
        front = [done[index] for index in non_dominated(values, ["maximize", "minimize"])]
        everything = np.ones(len(self.layout), dtype=bool)
        while True:
            row = self.layout.row(front[int(generator.integers(len(front)))].params)
            assert row is not None
            params = _rounded(self.layout.params(self.layout.vary(row[None], generator, 0.2, everything)[0]))
            if self._feasible(params) and all(params != trial.params for trial in done):
                return "variant", params

    def _feasible(self, params: Any) -> bool:
        return self.costs(params)["deployed_bytes"] <= self.file.limits.deployed_bytes

    def _proposed(self) -> dict[str, Any]:
        sampler = PerTrialSampler("known-cost", self.file.search.seed, self._known)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        distributions = self._known.distributions
        for trial in self.trials:
            given = {name: distributions[name] for name in trial.params}
            values = [trial.quality, trial.latency_ms]
            study.add_trial(optuna.trial.create_trial(params=trial.params, distributions=given, values=values))
        asked = study.ask()
        self.space.suggest(asked)
        return dict(asked.params)

    def train(
        self,
        params: Any,
        seed: int,
        examples: int | None = None,
        rungs: Sequence[float] | None = None,
        both: bool = False,
    ) -> dict[str, Any]:
        """Train one configuration on so many examples, by default all; judge the torch student too if `both`.

        Args:
            params: of the configuration.
            seed: of the training.
            examples: of the sample.
            rungs: shares of the steps, the last one 1; by default those of the study. On the way there it is judged as
                in a search with early stopping, on part of the validation split.
            both: see above.

        Returns:
            Fields `rungs`, `rung_seconds`, `deployed_bytes` and `torch_quality` of a `RecordedTrial`; 0.0 is the
            quality of a training that diverged.
        """
        rungs = self._rungs if rungs is None else rungs
        config, recipe = self.space.from_params(params)
        prepared = self.prepared.ranked_by(config.vocabulary_score)
        entries = prepared.vocabulary.size(config.vocabulary_keep)
        fidelity = FidelitySpec(**{**self.file.fidelity.model_dump(), "train_examples": examples})
        torch.manual_seed(seed)
        student = build_student(config, prepared.shape, entries)
        self._initialise(student, config.vocabulary_keep, recipe.initialization)
        courses = [prepared.course(ONLY, entries, recipe)]
        tokens = prepared.vocabulary.tokens(entries)
        begun = time.process_time()
        distillation = Distillation(student, courses, recipe, fidelity, tokens, seed, torch.device("cpu"))
        qualities: list[float] = []
        seconds: list[float] = []
        spent = time.process_time() - begun
        for share in rungs:
            begun = time.process_time()
            try:
                distillation.run(max(1, round(share * distillation.steps)))
            except DivergedError:
                break
            spent += time.process_time() - begun
            seconds.append(round(spent, 2))
            if share < 1:
                qualities.append(self._quality(partial(run_student, student), prepared, entries, self._examples))
        whole = len(seconds) == len(rungs)
        torch_quality = self._quality(partial(run_student, student), prepared, entries) if both and whole else None
        model = export_model(config, prepared.shape, entries, student).SerializeToString()
        if whole:
            qualities.append(self._quality(partial(run_model, open_session(model)), prepared, entries))
        qualities += [0.0] * (len(rungs) - len(qualities))
        seconds += [round(spent, 2)] * (len(rungs) - len(seconds))
        return {
            "rungs": tuple(round(quality, 5) for quality in qualities),
            "rung_seconds": tuple(seconds),
            "deployed_bytes": len(model) + prepared.vocabulary.file_bytes(entries),
            "torch_quality": None if torch_quality is None else round(torch_quality, 5),
        }

    def _initialise(self, student: Student, keep: float, how: str) -> None:
        start_from_embeddings(student, self._origin, self.prepared.vocabulary, keep)
        if how == "layers":
            start_from_layers(student, self._origin, self._encoder, self._statistics, self.prepared.vocabulary, keep)

    def _quality(
        self, answer: Callable[[Encoded], np.ndarray], prepared: Prepared, entries: int, most: int | None = None
    ) -> float:
        task = prepared.tasks[ONLY].task
        examples = task.validation if most is None else task.validation.evenly(most)
        if (entries, most) not in self._validation:
            self._validation[entries, most] = prepared.encode(ONLY, entries, examples)
        return task.quality(examples, answer(self._validation[entries, most]))


def _rounded(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters with as many digits as the table keeps."""
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in params.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: what a user did wrong is one sentence and exit 2."""
    parser = argparse.ArgumentParser(prog="python -m search.bench.record", description="Record real trials.")
    parser.add_argument("folder", type=Path, nargs="+", help="of the recording; one that exists is gone on with")
    parser.add_argument("--study", choices=STUDIES, default=STUDIES[0], help="what to train")
    parser.add_argument("--data", help="folder with train.* and validation.* of its task (default: the hub)")
    parser.add_argument("--trials", type=int, default=330, help="of the whole recording")
    parser.add_argument("--seed", type=int, help="of the trials (default: that of the study)")
    parser.add_argument("--pack", type=Path, help="write what the folders hold so far to this file, and train nothing")
    given = parser.parse_args(arguments)
    try:
        _run(given)
    except (InputError, OSError) as error:
        parser.exit(2, f"record: {error}\n")


def _run(given: argparse.Namespace) -> None:
    if given.pack is not None:
        write_recording(joined([read_folder(folder) for folder in given.folder]), given.pack)
        return
    if len(given.folder) > 1:
        raise InputError("Only --pack takes several folders.", "Record each by itself, with another --seed.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    (folder,) = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    Recorder(folder, given.study, given.data, given.seed).record(given.trials)


if __name__ == "__main__":
    main()
