"""What runs in a worker process: one trial after the other, each result written before it is reported."""

from __future__ import annotations

import importlib
import logging
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from pydantic import BaseModel
from ray.tune import Trainable
from sqlalchemy.exc import SQLAlchemyError

from runners.rungs import RungResult
from search.assignment import Assignment
from search.states import ERROR, FAILED_AFTER, INFEASIBLE, ORPHANED, RECORD, RUNGS, STOPPED, TRACEBACK
from search.storage import open_storage
from search.study_storage import Writes
from space.errors import NO_SPACE, InputError, OutputError

if TYPE_CHECKING:
    from runners.record import TrialRecord

logger = logging.getLogger("shoebox.search.worker")

LONGEST_ERROR = 2000  # characters of an error kept in storage
TRACEBACK_LINES = 12
WRITE_PAUSES = (0.5, 2.0, 8.0)  # seconds between attempts to write an outcome


class Pipeline(Protocol):
    """How a trial is carried out: a module with these functions, `runners.trial` or a test's own."""

    def prepare(self, plan: Any) -> Any: ...
    def cost_predictor(self, plan: Any, prepared: Any) -> Callable[[Any], dict[str, float]]: ...
    def run_trial(
        self, plan: Any, prepared: Any, number: int, config: Any, recipe: Any, seed: int, bundle: Any
    ) -> TrialRecord: ...
    def run_in_rungs(
        self, plan: Any, prepared: Any, number: int, config: Any, recipe: Any, seed: int, bundle: Any, rungs: Any
    ) -> Iterator[RungResult | TrialRecord]: ...


def load_pipeline(module: str) -> Pipeline:
    """The trial pipeline of that module name."""
    return importlib.import_module(module)


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker of a search is told once.

    Attributes:
        pipeline: name of the module with the functions of `Pipeline`.
        plan: what the pipeline needs to know of the study.
        url: of the study's storage.
        threads: torch threads per worker.
        path: module search path of the driver.
        bundles: URL under which bundles go; None if they stay in the assignments' folders.
    """

    pipeline: str
    plan: BaseModel
    url: str
    threads: int
    path: tuple[str, ...]
    bundles: str | None = None


class TrialWorker(Trainable):
    """A Ray actor that runs trials. It lives for the whole search (`reuse_actors`) and prepares once."""

    def setup(  # type: ignore[override]  # with_parameters adds the settings
        self, config: dict[str, Any], settings: WorkerSettings
    ) -> None:
        self._settings = settings
        self._assignment: Assignment | None = config.get("assignment")
        self._training: Iterator[RungResult | TrialRecord] | None = None
        self._passed: list[dict[str, Any]] = []
        self._begun = time.monotonic()
        sys.path.extend(entry for entry in settings.path if entry not in sys.path)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._leave()
        self._assignment = new_config["assignment"]
        return True

    def cleanup(self) -> None:
        self._leave()

    def _leave(self) -> None:
        """Drop a training that stopped at a rung; nothing of it stays in its bundle's place."""
        training, self._training = self._training, None
        self._passed, self._begun = [], time.monotonic()
        if training is not None:
            training.close()  # type: ignore[attr-defined]  # a generator

    @cached_property
    def _study_storage(self) -> Any:
        return open_storage(self._settings.url, keep_connections=False)

    @cached_property
    def _pipeline(self) -> Pipeline:
        import torch

        torch.set_num_threads(self._settings.threads)
        return load_pipeline(self._settings.pipeline)

    @cached_property
    def _prepared(self) -> Any:
        return self._pipeline.prepare(self._settings.plan)

    def step(self) -> dict[str, Any]:
        """Run the assigned trial, up to its next rung if it has any, and write what became of it; errors become
        results, not dead actors."""
        assert self._assignment is not None
        try:
            key, attributes = self._outcome(self._assignment)
            self._write(attributes)
        except UpdateFinishedTrialError:  # this driver gave no sign of life for too long
            logger.warning(
                "Trial %d was taken over by another driver meanwhile: its result here is dropped.",
                self._assignment.number,
            )
            key = ORPHANED
        return {"outcome": key, "done": key != RUNGS}

    def _write(self, attributes: dict[str, Any]) -> None:
        """Write attributes of the trial at once; a storage that is locked for a moment costs no minutes of training."""
        assert self._assignment is not None
        trial, writes = self._assignment.trial_id, Writes(user=attributes)
        for pause in WRITE_PAUSES:
            try:
                self._study_storage.write_together(trial, writes)
                return
            except (StorageInternalError, SQLAlchemyError):
                logger.warning("The storage did not take the outcome of trial %d.", self._assignment.number)
                time.sleep(pause)
        self._study_storage.write_together(trial, writes)

    def _outcome(self, assignment: Assignment) -> tuple[str, dict[str, Any]]:
        """What became of a trial, as one attribute says, and that one with those beside it."""
        from runners.trial import InfeasibleTrial

        try:
            found = self._next(assignment)
        except Exception as error:
            if isinstance(error, InfeasibleTrial):
                return INFEASIBLE, {INFEASIBLE: error.constraints}
            trace = _writable("".join(traceback.format_exception(error)))
            logger.error("Trial %d failed.\n%s", assignment.number, trace)
            text = _writable(" ".join(str(error).split()))
            if isinstance(error, OutputError) or _disk_is_full(error):
                return STOPPED, {STOPPED: text[:LONGEST_ERROR]}
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            return self._failed(
                f"{kind}{text}"[:LONGEST_ERROR],
                {TRACEBACK: "\n".join(trace.splitlines()[-TRACEBACK_LINES:])[-LONGEST_ERROR:]},
            )
        if isinstance(found, RungResult):
            # One whose checkpoint was of no use begins at its first rung once more.
            before = [rung for rung in self._passed if rung["rung"] < found.rung]
            self._passed = [*before, found.model_dump(mode="json")]
            return RUNGS, {RUNGS: self._passed}
        if not math.isfinite(found.quality):
            return self._failed(f"the measured quality is {found.quality}, not a number", {})
        return RECORD, {RECORD: found.model_dump(mode="json")}

    def _failed(self, error: str, beside: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Of a trial that failed: why, and for how long it was trained until then."""
        before = self._passed[-1]["seconds"].get("train", 0.0) if self._passed else 0.0
        return ERROR, {**beside, FAILED_AFTER: before + time.monotonic() - self._begun, ERROR: error}

    def _next(self, assignment: Assignment) -> RungResult | TrialRecord:
        """The next rung of a trial, or its end, with its bundle where it is to stay."""
        plan, prepared, url = self._settings.plan, self._prepared, self._settings.bundles
        self._begun = time.monotonic()  # what is prepared once, no trial has to answer for
        given = (assignment.number, assignment.config, assignment.recipe, assignment.seed)
        if url is not None:  # a study without rungs: their checkpoints need a folder that all hosts share
            from runners.bundle_store import published

            name = assignment.bundle.name
            with tempfile.TemporaryDirectory(prefix="shoebox-bundle-") as folder:
                record = self._pipeline.run_trial(plan, prepared, *given, Path(folder) / name)
                return published(record, f"{url}/{name}")
        if assignment.rungs is None:
            return self._pipeline.run_trial(plan, prepared, *given, assignment.bundle)
        if self._training is None:
            self._passed = [rung.model_dump(mode="json") for rung in assignment.rungs.passed]
            rungs = assignment.rungs
            self._training = self._pipeline.run_in_rungs(plan, prepared, *given, assignment.bundle, rungs)
        return next(self._training)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: a trial's state is in the study's storage and its bundle."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""


def _writable(text: str) -> str:
    """A text with escapes in place of unpaired surrogates, which name undecodable bytes of files and have no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _disk_is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in NO_SPACE
