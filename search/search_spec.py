"""The `search:` section of a study file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from runners.cores import usable_cores
from search.halving import EarlyStoppingSpec
from search.propose import ProposeSpec
from search.retention import Keep
from search.samplers import SamplerName


class SearchSpec(BaseModel):
    """Section `search:` of a study file.

    Attributes:
        sampler: who proposes configurations; `known-cost` gives way to `tpe` where an objective cannot be foreseen.
        trials: trainings in total, finished, failed or stopped early; infeasible proposals do not count. The search
            ends when this budget or one of the next two is spent.
        hours: of searching in total, the preparation of teachers apart; no limit by default. What runs then ends at
            its next rung, or its end.
        training_hours: that trainings may take in total, added up over the workers; no limit by default.
        early_stopping: when trainings are stopped early (`search.halving.EarlyStoppingSpec`); never by default.
        repeats: trainings of one configuration by one recipe, each with a seed of its own; further proposals of it are
            answered from the record.
        keep_bundles: `all`, or `front`: bundles of trials that leave the front are removed as the study goes.
        seed: of the search: proposals and trainings follow from it; of a warm start, proposals from older trials, too.
        workers: trials at a time, at most; the machine's cores are divided among them. By default one per
            core, but no more than 4; on a cluster as many as fit.
        cpus_per_trial: CPUs that a trial needs; a fraction lets several share one. On a cluster its training has so
            many threads, at least one; on one machine fewer trials run at a time.
        gpus_per_trial: GPUs that Ray gives to a trial alone; 0.25 lets four share one. With 0 a trial uses the first
            GPU of its host if there is one, together with the others there.
        bundles: URL of a folder for the bundles of studies (s3://bucket/folder; any protocol of fsspec), for hosts that
            share no `SHOEBOX_HOME`. By default they are in `SHOEBOX_HOME`.
        propose: students to try first (`search.propose.ProposeSpec`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: SamplerName = "known-cost"
    trials: int = Field(default=30, ge=1)
    hours: float | None = Field(default=None, gt=0)
    training_hours: float | None = Field(default=None, gt=0)
    early_stopping: EarlyStoppingSpec | None = None
    repeats: int = Field(default=1, ge=1)
    keep_bundles: Keep = "all"
    seed: int = Field(default=0, ge=0)
    workers: int | None = Field(default=None, ge=1)
    cpus_per_trial: float = Field(default=1.0, gt=0, le=1024)
    gpus_per_trial: float = Field(default=0.0, ge=0, le=64)
    propose: ProposeSpec | None = None
    bundles: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9+.-]*://[^/]*/?.*[^/]$")

    @field_validator("cpus_per_trial", "gpus_per_trial")
    @classmethod
    def _whole_or_fraction(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("should be at most 1, or a whole number")
        if round(value, 4) != value:
            raise ValueError("should have at most 4 decimals, which is how Ray counts")
        return value

    @model_validator(mode="after")
    def _shared(self) -> SearchSpec:
        if self.bundles and (self.early_stopping or self.keep_bundles == "front"):
            part = "early_stopping" if self.early_stopping else "keep_bundles: front"
            raise ValueError(
                f"bundles at a URL and {part} do not go together: it needs a SHOEBOX_HOME that hosts share"
            )
        return self

    def worker_count(self) -> int:
        """`workers`, or what this machine suggests."""
        return self.workers or max(1, min(4, int(usable_cores() / max(1.0, self.cpus_per_trial))))

    @property
    def resources(self) -> dict[str, float]:
        """What a trial needs, in Ray's words."""
        needed = {"cpu": self.cpus_per_trial}
        return {**needed, "gpu": self.gpus_per_trial} if self.gpus_per_trial > 0 else needed
