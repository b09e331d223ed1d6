"""Train the rows of an ablation over seeds, keep every result, and go on where it was stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from objectives.limits import Limits
from runners.cores import share_of_cores
from runners.distill.loop import DivergedError
from runners.latency import LatencyMeter
from runners.plan import TaskPlan, TaskSections, TrialPlan
from runners.prepared import TaughtTask
from runners.pretraining import PretrainingSpec
from runners.pretraining.corpus import corpus_key
from runners.progress import duration
from runners.record import TrialRecord
from runners.teacher.model import find_model
from runners.trial import Prepared, prepare, run_trial
from search.ablate.report import FULL, Ablation, AblationRow
from search.ablate.rows import ROWS, Facts, Setup
from search.lock import only_one
from search.study_file import StudyFile
from search.validation import closest
from space.errors import InputError, OutputError
from space.families import deployed_bytes
from space.paths import home

logger = logging.getLogger("shoebox.search.ablate")

_FORMAT = 1  # raise it when results of older code must not be used
_CORPUS = {"sources", "exclude", "model"}  # of the section pretraining: stand in the key by their content
_NO_LIMITS = Limits(deployed_bytes=2**62)


class Outcome(BaseModel):
    """What became of one training: a record, or why there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    record: TrialRecord | None = None
    error: str | None = None


@dataclass(frozen=True)
class Job:
    """One training of one row.

    Attributes:
        rows: whose it is; rows that come to the same setup share their trainings.
        setup: without limits.
        seed: of the training.
        key: names setup, seed, and the data and outputs that they are applied to.
    """

    rows: tuple[str, ...]
    setup: Setup
    seed: int
    key: str


class Trainer:
    """Trains jobs in one process; what trainings share is prepared once.

    Args:
        folder: where results are kept, one file each.
        threads: of torch.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self._prepared: dict[str, Prepared] = {}
        torch.set_num_threads(threads)

    def prepared(self, plan: TrialPlan) -> Prepared:
        """What trainings of the same task, teacher and transfer text share."""
        key = plan.model_dump_json(include=set(TaskSections.model_fields))
        if key not in self._prepared:
            self._prepared[key] = prepare(plan)
        return self._prepared[key]

    def train(self, job: Job) -> Outcome:
        """Train, judge and keep one job. The bundle is not kept: the JSON of a row is enough to make it again.

        A setup that cannot be built, as one that starts from layers which the teacher lacks, is a failed outcome. It is
        not kept, since its cause may lie outside of it: the next ablation tries again.

        Raises:
            OutputError: a result cannot be written.
        """
        setup = job.setup
        with tempfile.TemporaryDirectory(prefix="bundle-", dir=self.folder) as folder:
            try:
                record = run_trial(
                    setup.plan,
                    self.prepared(setup.plan),
                    0,
                    setup.config,
                    setup.recipe,
                    job.seed,
                    Path(folder) / "bundle",
                )
            except DivergedError as error:
                outcome = Outcome(error=str(error))
            except OutputError:
                raise
            except InputError as error:
                return Outcome(error=str(error))
            else:
                outcome = Outcome(record=record.model_copy(update={"bundle": ""}))
        part = self.folder / f"{job.key}.part{os.getpid()}"
        part.write_text(outcome.model_dump_json(indent=1), encoding="utf-8")
        os.replace(part, _result_file(self.folder, job.key))
        return outcome


def ablate(
    file: StudyFile,
    setup: Setup,
    *,
    seeds: int = 3,
    rows: Sequence[str] | None = None,
    workers: int = 1,
    folder: Path | None = None,
) -> Ablation:
    """Train a setup whole and without one method at a time, each with seeds 0 to `seeds` - 1.

    The same call goes on where an earlier one was stopped. A row whose method the setup does not use is left out and
    named in the answer.

    Args:
        file: the study; its limits are only compared with.
        setup: the whole configuration (`start_from_study`, `start_from_file`).
        seeds: trainings per row.
        rows: names of `ROWS`; all by default.
        workers: trainings at a time; the cores are divided among them.
        folder: where results are kept; default `home()/ablations/NAME`.

    Raises:
        InputError: an unknown row or one that the setup does not use; another process runs the same ablation; the
            data, the teacher or the device cannot be had; no row at all could be trained. Where some can, the others
            are failed rows of the answer.
        OutputError: a result cannot be written.
        KeyboardInterrupt: stopped by the user; what finished is kept.
    """
    if seeds < 1 or workers < 1:
        raise InputError(f"An ablation needs at least one seed and one worker, not {seeds} and {workers}.")
    if workers > 1 and file.device.latency == "native":
        raise InputError("With device.latency: native, trainings at a time would disturb the clock.", "Use 1 worker.")
    check_rows(rows)
    folder = folder or home() / "ablations" / file.name
    whole = Setup(setup.plan.model_copy(update={"limits": _NO_LIMITS}), setup.config, setup.recipe)
    with _only_one(folder):
        LatencyMeter(file.device).prepare()
        threads = max(1, share_of_cores() // workers)
        trainer = Trainer(folder, threads)
        shared = trainer.prepared(whole.plan)

        facts = Facts(
            lambda config: deployed_bytes(config, shared.shape, shared.vocabulary),
            {name: taught.examples for name, taught in shared.tasks.items()},
        )
        setups, in_place, unused = {FULL: whole}, {FULL: ""}, []
        for name in ROWS if rows is None else rows:
            without = ROWS[name].remove(whole, facts)
            if without is not None:
                setups[name], in_place[name] = without
            elif rows is None:
                unused.append(name)
            else:
                raise InputError(f"Row {name!r}: the configuration has no {ROWS[name].removed} to remove.")
        jobs = _jobs(setups, seeds, trainer)
        outcomes = {job.key: found for job in jobs if (found := _read(folder, job.key)) is not None}
        left = [job for job in jobs if job.key not in outcomes]
        if len(left) < len(jobs):
            logger.info("Kept from before: %d of %d trainings.", len(jobs) - len(left), len(jobs))
        for job, outcome in _train_all(left, trainer, workers, threads):
            outcomes[job.key] = outcome
            _tell(job, outcome, len(outcomes), len(jobs))
    if all(outcome.record is None for outcome in outcomes.values()):
        raise InputError(f"No row could be trained. {outcomes[jobs[0].key].error}")
    table = []
    for name, row_setup in setups.items():
        own = [outcomes[job.key] for job in jobs if name in job.rows]
        table.append(AblationRow(name, row_setup, in_place[name], [(one.record, one.error) for one in own]))
    return Ablation(file, _teacher_quality(shared), list(range(seeds)), table, unused)


def _teacher_quality(prepared: Prepared) -> float:
    """By the study's metric: of several tasks, teachers retain all of themselves."""
    taught = list(prepared.tasks.values())
    return 100.0 if len(taught) > 1 else taught[0].teacher.validation_quality


def check_rows(rows: Sequence[str] | None) -> None:
    """Refuse names that are no rows, and rows named twice.

    Raises:
        InputError: there is such a name.
    """
    for name in rows or ():
        if name not in ROWS:
            raise InputError(f"There is no ablation row {name!r}.", closest(name, list(ROWS)))
    if rows is not None and len(set(rows)) != len(rows):
        raise InputError(f"An ablation row is named twice: {', '.join(rows)}.")


def _jobs(setups: dict[str, Setup], seeds: int, trainer: Trainer) -> list[Job]:
    """All trainings, one seed after the other, so that an early look has every row."""
    found: dict[str, Job] = {}
    plan = next(iter(setups.values())).plan  # no row changes the text of encoders, nor their teacher
    corpus = None if plan.pretraining is None else _corpus(plan.pretraining, plan.teacher.model)
    meter = LatencyMeter(plan.device)  # nor the device
    device = [plan.device.model_dump(mode="json"), meter.identity, meter.tools]
    for seed in range(seeds):
        for name, setup in setups.items():
            key = _key(setup, seed, trainer.prepared(setup.plan), corpus, device)
            rows = (*found[key].rows, name) if key in found else (name,)
            found[key] = Job(rows, setup, seed, key)
    return list(found.values())


def _corpus(spec: PretrainingSpec, model: str) -> str:
    """Names pre-training text and the teacher that reads it by their content, wherever they lie."""
    return corpus_key(spec, find_model(spec.model or model))


def _key(setup: Setup, seed: int, prepared: Prepared, corpus: str | None, device: list[Any]) -> str:
    content = {
        "format": _FORMAT,
        "shoebox": version("shoebox"),
        "tasks": {name: _task_key(plan, prepared.tasks[name]) for name, plan in setup.plan.task_plans.items()},
        "pretraining": _pretraining_key(setup, corpus),
        **_supernet_key(setup, prepared),
        "fidelity": setup.plan.fidelity.model_dump(mode="json"),
        "device": device,
        # Without defaults, so that a field which a newer Shoebox added changes no key.
        "family": setup.config.family,
        "config": setup.config.model_dump(mode="json", exclude_defaults=True),
        "recipe": setup.recipe.model_dump(mode="json", exclude_defaults=True),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def _pretraining_key(setup: Setup, corpus: str | None) -> dict[str, Any] | None:
    """The text, which also orders the vocabulary, and how the encoder is trained where the student starts from one."""
    spec = setup.plan.pretraining
    if spec is None:
        return None
    starts = setup.recipe.initialization == "pretrained"
    return {"corpus": corpus, "encoder": spec.model_dump(mode="json", exclude=_CORPUS) if starts else None}


def _supernet_key(setup: Setup, prepared: Prepared) -> dict[str, str]:
    """What the student inherits from, where it does; else nothing, so that keys of older results stay."""
    if prepared.supernet is None or setup.recipe.initialization != "supernet":
        return {}
    return {"supernet": prepared.supernet.key}


def _task_key(plan: TaskPlan, taught: TaughtTask) -> dict[str, Any]:
    """The content of data, teacher and further text, wherever they lie."""
    return {
        "data": taught.task.fingerprint,
        "teacher": taught.teacher.key,
        "transfer": None if taught.transfer is None else taught.transfer.folder.name,
        "task": plan.task.model_dump(mode="json", exclude={"data", "teacher", "transfer"}),
    }


def _result_file(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


def _read(folder: Path, key: str) -> Outcome | None:
    """A kept result; one that cannot be read counts as none and is made again."""
    try:
        return Outcome.model_validate_json(_result_file(folder, key).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def _train_all(jobs: list[Job], trainer: Trainer, workers: int, threads: int) -> Iterator[tuple[Job, Outcome]]:
    """Train jobs, here or in so many processes; in the order in which they end."""
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, trainer.train(job)
        return
    from search.ablate.workers import train_in_processes  # Ray takes seconds to import

    yield from train_in_processes(jobs, trainer.folder, min(workers, len(jobs)), threads)


def _tell(job: Job, outcome: Outcome, done: int, total: int) -> None:
    said = f"failed: {outcome.error}"
    if (record := outcome.record) is not None:
        seconds = duration(sum(record.seconds.values()))
        said = f"{record.metric} {record.quality:.4f}, {record.deployed_bytes:,} bytes, {seconds}"
    logger.info("%s, seed %d: %s (%d of %d trainings).", " = ".join(job.rows), job.seed, said, done, total)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and clear away what a killed process left."""
    with only_one(folder / "lock", f"Another process runs an ablation in {folder} right now."):
        for left in folder.glob("bundle-*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in folder.glob("*.part*"):
            left.unlink(missing_ok=True)
        yield
