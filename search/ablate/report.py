"""Answers of an ablation: figures of each row, and as tables and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from objectives.limits import broken, constraint_values
from search.ablate.rows import ROWS, Setup
from space.config import Recipe

if TYPE_CHECKING:
    from runners.record import TrialRecord
    from search.study_file import StudyFile

FULL = "full"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; the latter is None of a single value."""

    mean: float
    deviation: float | None

    def text(self, sign: str = "") -> str:
        """As in `0.7516 ± 0.0074`."""
        mean = f"{self.mean:{sign}.4f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.4f}"


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and deviation of some values; None of none."""
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class AblationRow:
    """One setup over the seeds.

    Attributes:
        name: `full`, or a name of `ROWS`.
        setup: what was trained.
        in_place: what stands in the place of the removed method.
        results: by seed, the record, or why there is none.
    """

    name: str
    setup: Setup
    in_place: str
    results: list[tuple[TrialRecord | None, str | None]]

    @property
    def removed(self) -> str:
        """The removed method in words."""
        return "nothing" if self.name == FULL else ROWS[self.name].removed

    @property
    def records(self) -> list[TrialRecord]:
        """Of the trainings that came to an end."""
        return [record for record, _ in self.results if record is not None]

    def qualities(self) -> list[float | None]:
        """By seed."""
        return [None if record is None else record.quality for record, _ in self.results]

    def quality(self) -> Spread | None:
        """Over the seeds that came to an end."""
        return spread([record.quality for record in self.records])

    def change(self, full: AblationRow) -> Spread | None:
        """Quality less that of the whole setup with the same seed."""
        pairs = zip(self.qualities(), full.qualities(), strict=True)
        return spread([own - whole for own, whole in pairs if own is not None and whole is not None])

    def seconds(self, step: str | None = None) -> float:
        """Mean wall time of one step of a trial, or of all."""
        return statistics.fmean(
            sum(record.seconds.values()) if step is None else record.seconds.get(step, 0.0) for record in self.records
        )


@dataclass(frozen=True)
class Ablation:
    """What each method is worth.

    Attributes:
        study: the study file.
        teacher_quality: of the teacher, by the study's metric.
        seeds: of the trainings.
        rows: the whole setup first.
        unused: names of the rows whose method the setup does not use.
    """

    study: StudyFile
    teacher_quality: float
    seeds: list[int]
    rows: list[AblationRow]
    unused: list[str]

    def header(self) -> list[str]:
        """Names of the columns of `cells`."""
        metric = self.study.metric
        return ["removed", "in its place", metric, "change", "bytes", "latency ms", "train s"]

    def cells(self, row: AblationRow) -> list[str]:
        """One row as text."""
        found = [row.removed, row.in_place]
        quality = row.quality()
        if quality is None:
            return [*found, f"failed: {row.results[0][1]}", "", "", "", ""]
        change = None if row.name == FULL else row.change(self.rows[0])
        record = row.records[0]
        # Where entries of the vocabulary have other lengths, bytes differ between rows, but never between seeds.
        over = " (over)" if self._broken(record) else ""
        failed = len(row.results) - len(row.records)
        return [
            *found,
            quality.text() + (f" ({failed} of {len(row.results)} failed)" if failed else ""),
            "" if change is None else change.text("+"),
            f"{record.deployed_bytes:,}{over}",
            f"{record.latency.milliseconds:.2f}",
            f"{row.seconds('train'):.0f}",
        ]

    def remarks(self) -> list[str]:
        """What belongs under the table."""
        seeds, metric = len(self.seeds), self.study.metric
        several = seeds > 1
        found = [
            f"{metric} on the validation split"
            + (f": mean and standard deviation over {seeds} seeds" if several else ", one seed")
            + "; change: less the whole setup with the same seed."
        ]
        if any(row.records and self._broken(row.records[0]) for row in self.rows):
            given = ", ".join(f"{name} {limit:,}" for name, limit in self.study.limits.given().items())
            found.append(f"(over): breaks a limit of the study ({given}).")
        if self.unused:
            found.append(f"Not in this setup: {', '.join(ROWS[name].removed for name in self.unused)}.")
        return found

    def as_markdown(self) -> str:
        """The table with everything needed to judge it and to make it again."""
        setup, metric = self.rows[0].setup, self.study.metric
        fidelity = setup.plan.fidelity
        defaults = {name: field.default for name, field in Recipe.model_fields.items()}
        recipe = {name: value for name, value in setup.recipe.model_dump().items() if value != defaults[name]}
        lines = [
            f"# Ablation of {self.study.name}",
            "",
            f"- Setup: {setup.config.summary()}.",
            f"- Recipe: {', '.join(f'{name} {_short(value)}' for name, value in recipe.items())}.",
            f"- Training: {fidelity.epochs:g} epochs in batches of {fidelity.batch_size}; seeds "
            f"{', '.join(map(str, self.seeds))}.",
            f"- Teacher: {setup.plan.teacher.model}, {metric} {self.teacher_quality:.4f}.",
        ]
        records = [record for row in self.rows for record in row.records]
        if records:
            latency, versions = records[0].latency, records[0].versions
            calibrated = "calibrated" if latency.calibrated else "uncalibrated"
            # Each row is timed at the median length of the task's texts in its own word pieces.
            lengths = sorted({record.latency.tokens for record in records})
            lines.append(
                f"- Latency: {latency.device}, {latency.backend}, {calibrated}, "
                f"{' to '.join(map(str, lengths[:1] + lengths[1:][-1:]))} tokens."
            )
            lines.append(f"- Made with: {', '.join(f'{name} {value}' for name, value in versions.items())}.")
        lines += ["", *_table(self.header(), [self.cells(row) for row in self.rows]), "", *self.remarks(), ""]
        seeds = [f"seed {seed}" for seed in self.seeds]
        per_seed = [
            [row.removed, *("failed" if value is None else f"{value:.4f}" for value in row.qualities())]
            for row in self.rows
        ]
        lines += [f"{metric} of each seed:", "", *_table(["removed", *seeds], per_seed), ""]
        return "\n".join(lines)

    def as_json(self) -> str:
        """Everything; the file will do as a configuration file of another ablation."""
        setup = self.rows[0].setup
        answer = {
            "study": self.study.model_dump(mode="json"),
            "split": "validation",
            "config": setup.config.model_dump(mode="json"),
            "recipe": setup.recipe.model_dump(mode="json"),
            "teacher_quality": self.teacher_quality,
            "seeds": self.seeds,
            "not_in_this_setup": self.unused,
            "rows": [self._row(row) for row in self.rows],
        }
        return json.dumps(answer, indent=1, ensure_ascii=False)

    def _row(self, row: AblationRow) -> dict[str, Any]:
        quality, change = row.quality(), None if row.name == FULL else row.change(self.rows[0])
        return {
            "row": row.name,
            "removed": row.removed,
            "in_its_place": row.in_place,
            "quality": row.qualities(),
            "mean": None if quality is None else quality.mean,
            "deviation": None if quality is None else quality.deviation,
            "change": None if change is None else change.mean,
            "change_deviation": None if change is None else change.deviation,
            "broken_limits": self._broken(row.records[0]) if row.records else None,
            "errors": [error for _, error in row.results],
            "fidelity": row.setup.plan.fidelity.model_dump(mode="json"),
            "records": [
                None if record is None else record.model_dump(mode="json", exclude={"bundle", "trial"})
                for record, _ in row.results
            ],
        }

    def _broken(self, record: TrialRecord) -> list[str]:
        return broken(constraint_values(self.study.limits, record.costs()))


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
