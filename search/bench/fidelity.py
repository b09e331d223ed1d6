"""What a recording says of cheap trainings: how well they foretell the quality of whole ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.table import Table
from scipy.stats import kendalltau, spearmanr

from search.bench.recorded import RecordedProblem
from search.bench.recording import Recording


@dataclass(frozen=True)
class Correlation:
    """How one fidelity ranks trials, against their final quality.

    Attributes:
        fidelity: what it is.
        trials: so many of them.
        spearman, kendall: rank correlations.
    """

    fidelity: str
    trials: int
    spearman: float
    kendall: float

    @classmethod
    def of(cls, fidelity: str, cheap: list[float], final: list[float]) -> Correlation:
        """Of qualities by a fidelity and of final ones."""
        spearman, kendall = float(spearmanr(cheap, final).statistic), float(kendalltau(cheap, final).statistic)
        return cls(fidelity, len(cheap), spearman, kendall)


def correlations(recording: Recording) -> list[Correlation]:
    """Of all configurations by steps, and of the repeated ones by steps and by subsets of the data.

    For the latter, the cheap training has the seed of the repetition, and the final quality is that of the first
    training: what ranks well must rank configurations, not the luck of a seed. The last row is what another whole
    training comes to: more is not to be had.
    """
    trials = recording.configurations()
    final = [trial.quality for trial in trials]
    shares = recording.setting.rungs[:-1]
    found = [
        Correlation.of(f"{share:.2f} of the steps", [trial.rungs[rung] for trial in trials], final)
        for rung, share in enumerate(shares)
    ]
    pairs = recording.pairs()
    first = [one.quality for one, _ in pairs]
    for rung, share in enumerate(shares):
        cheap = [again.rungs[rung] for _, again in pairs]
        found.append(Correlation.of(f"{share:.2f} of the steps, another seed", cheap, first))
    for name in pairs[0][1].subsets if pairs else ():
        cheap = [again.subsets[name] for _, again in pairs]
        found.append(Correlation.of(f"{name} of the data, another seed", cheap, first))
    if pairs:
        found.append(Correlation.of("the whole, another seed", [again.quality for _, again in pairs], first))
    return found


def rung_table(recording: Recording) -> Table:
    """`correlations`, for people."""
    table = Table(title="Rank correlation with the final quality", title_justify="left")
    for name in ("fidelity", "trials", "Spearman", "Kendall"):
        table.add_column(name, justify="left" if name == "fidelity" else "right")
    for each in correlations(recording):
        table.add_row(each.fidelity, str(each.trials), f"{each.spearman:.2f}", f"{each.kendall:.2f}")
    return table


def fit_table(problem: RecordedProblem) -> Table:
    """How well the surrogate foretells rows that it has not seen, for people."""
    trials = problem.recording.configurations()
    title = f"Surrogate of {len(trials)} recorded configurations, by ten-fold cross-validation"
    table = Table(title=title, title_justify="left")
    for name in ("share of the steps", "quality's deviation", "error", "noise", "explained", "Spearman"):
        table.add_column(name, justify="right")
    for rung, (share, fit) in enumerate(zip(problem.rungs, problem.crossvalidated(), strict=True)):
        spread = float(np.std([trial.rungs[rung] for trial in trials]))
        cells = (spread, fit.error, fit.noise)
        numbers = [f"{value:.4f}" for value in cells]
        table.add_row(f"{share:.2f}", *numbers, f"{fit.explained:.2f}", f"{fit.rank_correlation:.2f}")
    return table
