"""What a new trial is worth where it need not be trained to its end.

Up to the first rung it costs a share s of a training. Quality there moves what is expected of it from mu to a mean of
normal distribution N(mu, move^2), and only above some bar will it go on, at the cost of the rest. With the expected
hypervolume gain g(m) of a trial of mean m, its gain by the share of a training that is spent on it is

    max over bars b of  E[g(m); m > b] / (s + (1 - s) P(m > b)).

A rung that says nothing (move 0) leaves g(mu): all of it has to be trained. One that says much is worth many times
that, for all that is spent on most trials is s.
"""

from __future__ import annotations

import numpy as np

from search.samplers.known_cost.gain import ExpectedGain

NODES = 15  # of the quadrature over qualities at the rung


def gain_by_share(
    gain_of: ExpectedGain, costs: np.ndarray, mean: float, deviation: float, move: float, first: float
) -> float:
    """The formula above.

    Args:
        gain_of: the gain against the present front.
        costs: [costs] of the trial.
        mean, deviation: of its final quality.
        move: at most `deviation`.
        first: s.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    nodes, weights = nodes[::-1], weights[::-1] / weights.sum()  # the highest quality first
    move = min(move, 0.999 * deviation)
    after = np.full(NODES, np.sqrt(deviation**2 - move**2))
    gains = gain_of(np.repeat(costs[None], NODES, axis=0), mean + move * nodes, after)
    return float((np.cumsum(weights * gains) / (first + (1 - first) * np.cumsum(weights))).max())
