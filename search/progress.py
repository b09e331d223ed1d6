"""How a running search shows itself: one calm live display, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from objectives.limits import Limits
from objectives.pareto import hypervolume
from runners.progress import duration
from search.ledger import Ledger
from search.states import ERROR, RECORD, RUNGS, Counts, Objective, State, objective_values, read_record
from search.study import directions, reference_point

# Of counts that most searches do not have.
_WORDS = {"paused": "set aside", "stopped": "stopped early", "answered": "answered from the record"}


@dataclass(frozen=True)
class Snapshot:
    """Where a search stands.

    Attributes:
        counts: trials by state.
        budget: trained trials wanted.
        metric: name of the quality.
        best: highest quality of a feasible finished trial so far.
        hypervolume: of the feasible finished trials (`search.study.reference_point`).
        seconds_left: None until a trial was trained in this run.
    """

    counts: Counts
    budget: int
    metric: str
    best: float | None
    hypervolume: float
    seconds_left: float | None

    def parts(self) -> list[str]:
        """The snapshot in words, most telling first."""
        counts = self.counts
        parts = [f"{counts.trained} of {self.budget} trials", f"{counts.running} running"]
        parts.append(f"{counts.infeasible} rejected as infeasible")
        parts.append(f"{counts.failed} failed")
        for name in ("paused", "stopped", "answered"):
            if count := getattr(counts, name):
                parts.append(f"{count} {_WORDS[name]}")
        if self.best is not None:
            parts.append(f"best {self.metric} {self.best:.4f}")
            parts.append(f"hypervolume {self.hypervolume:.4g}")
        if self.seconds_left is not None and counts.trained < self.budget:
            parts.append(f"about {duration(self.seconds_left)} left")
        return parts


class Display(Protocol):
    """Shows snapshots and single events."""

    def start(self, title: str) -> None: ...
    def show(self, snapshot: Snapshot, event: str | None) -> None: ...
    def stop(self) -> None: ...


class NoDisplay:
    """Shows nothing: for use from Python."""

    def start(self, title: str) -> None: ...
    def show(self, snapshot: Snapshot, event: str | None) -> None: ...
    def stop(self) -> None: ...


class PlainDisplay:
    """One timestamped line for each trial that ends."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, title: str) -> None: ...

    def show(self, snapshot: Snapshot, event: str | None) -> None:
        if event is not None:
            line = f"{time.strftime('%H:%M:%S')} {event} ({', '.join(snapshot.parts())})"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None: ...


class LiveDisplay:
    """A few lines at the bottom of a terminal that change in place."""

    def __init__(self, console: Console) -> None:
        self._title = ""
        self._snapshot: Snapshot | None = None
        self._event: str | None = None
        self._since = self._started = 0.0
        self._live = Live(self, console=console, refresh_per_second=2, transient=True)

    def start(self, title: str) -> None:
        self._title = title
        self._started = time.monotonic()
        self._live.start()

    def show(self, snapshot: Snapshot, event: str | None) -> None:
        self._snapshot, self._event = snapshot, event or self._event
        self._since = time.monotonic()

    def stop(self) -> None:
        self._live.stop()

    def __rich__(self) -> Table:
        """Called by rich at every refresh; only the times change between two snapshots."""
        grid = Table.grid(padding=(0, 1))
        elapsed = duration(time.monotonic() - self._started)
        if self._snapshot is None:
            grid.add_row(Text(f"{self._title}: starting workers, {elapsed}"))
            return grid
        now = self._snapshot
        left = now.seconds_left
        if now.counts.trained >= now.budget:
            left = None
        if left is not None:
            left = max(0.0, left - (time.monotonic() - self._since))
        bar = ProgressBar(total=now.budget, completed=now.counts.trained, width=40)
        head = Table.grid(padding=(0, 1))
        times = f"{elapsed} so far" + (f", about {duration(left)} left" if left is not None else "")
        head.add_row(Text(self._title, style="bold"), bar, Text(times))
        grid.add_row(head)
        grid.add_row(Text(", ".join(part for part in now.parts() if not part.endswith(" left"))))
        if self._event:
            grid.add_row(Text(self._event, style="dim"))
        return grid


def display_for(console: Console) -> Display:
    """The live display on a terminal, plain lines elsewhere."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


@dataclass
class Monitor:
    """Watches the ledger of a search and shows a snapshot after every change.

    Args:
        ledger: of the study.
        objectives: of the study.
        limits: of the study; they give the hypervolume its reference.
        metric: name of the quality.
        display: where to show.
    """

    ledger: Ledger
    objectives: list[Objective]
    limits: Limits
    metric: str
    display: Display
    _points: list[list[float]] = field(init=False, default_factory=list)
    _started: float = field(init=False)
    _done_before: int = field(init=False)
    _trained_before: float = field(init=False)
    _workers_started: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._done_before = self._done
        self._trained_before = self.ledger.time.training_seconds
        for trial in self.ledger.study.get_trials(deepcopy=False):
            self._add(trial.user_attrs, trial.constraints, trial.values)

    def _add(self, attributes: dict, constraints: dict[str, float], values: Sequence[float] | None) -> None:
        if values is not None and RECORD in attributes and all(value <= 0 for value in constraints.values()):
            name = self.ledger.study.study_name
            self._points.append(objective_values(read_record(name, attributes), self.objectives))

    def __call__(self, number: int | None, state: State | None) -> None:
        """A trial was handed out (no number), or trial `number` ended as `state`."""
        event = None
        if number is not None and state is not None:
            trial = self.ledger.ended(number)
            self._add(trial.user_attrs, trial.constraints, trial.values)
            self._leave_out_start(trial.user_attrs)
            event = f"trial {number} {describe(state, trial.user_attrs, self.metric)}"
        self.display.show(self.snapshot(), event)

    def _leave_out_start(self, attributes: dict) -> None:
        """Let the pace begin where the work of the first trial to end did: what passed before started workers."""
        if self._workers_started or self._done == self._done_before:
            return
        self._workers_started = True
        told = attributes.get(RECORD) or (attributes.get(RUNGS) or [None])[-1]
        if told is not None:  # one that failed does not tell
            self._started = max(self._started, time.monotonic() - sum(told["seconds"].values()))

    @property
    def _done(self) -> int:
        return self.ledger.counts.trained + self.ledger.counts.paused

    def snapshot(self) -> Snapshot:
        """Where the search stands now."""
        counts = self.ledger.counts
        done, left = self._done, None
        if done > self._done_before:
            elapsed = max(time.monotonic() - self._started, 1e-9)
            spent = self.ledger.time
            left = elapsed / (done - self._done_before) * max(0, self.ledger.budget - done)
            left = min(left, spent.seconds_left((spent.training_seconds - self._trained_before) / elapsed))
        quality = self.objectives.index("quality")
        return Snapshot(
            counts=Counts(**vars(counts)),
            budget=self.ledger.budget,
            metric=self.metric,
            best=max((point[quality] for point in self._points), default=None),
            hypervolume=hypervolume(
                self._points, reference_point(self.objectives, self.limits), directions(self.objectives)
            ),
            seconds_left=left,
        )


def describe(state: State, attributes: dict, metric: str) -> str:
    """What became of a trial, in a few words."""
    if state == "finished":
        record = attributes[RECORD]
        latency = record["latency"]["milliseconds"]
        return f"{metric} {record['quality']:.4f}, {latency:.2f} ms, {record['deployed_bytes']:,} bytes"
    if state == "failed":
        return f"failed: {attributes.get(ERROR, 'unknown reason').splitlines()[0]}"
    if state in ("paused", "stopped"):
        rung = attributes[RUNGS][-1]
        what = "set aside" if state == "paused" else "stopped early"
        return f"{what}: {metric} {rung['quality']:.4f} after {100 * rung['share']:.0f} % of its training"
    if state == "orphaned":
        return "lost its worker and is run again"
    return "rejected: over a limit" if state == "infeasible" else str(state)
