"""How sure a quality is, given how many examples it was measured on."""

from __future__ import annotations

from math import atanh, sqrt, tanh

_Z = 1.959964  # of 95 %


def interval(metric: str, quality: float, examples: int) -> tuple[float, float] | None:
    """95 % interval of a quality measured on so many independent examples; None where no formula fits.

    - accuracy: Wilson's score interval (1927).
    - pearson, spearman: by Fisher's transformation, for ranks with the variance of Bonett and Wright (2000).
    - f1, matthews, entity_f1: none, since they do not follow from quality and number alone.

    It says nothing of the luck of having been selected on these very examples.
    """
    if metric == "accuracy" and examples > 0:
        centre = (quality + _Z**2 / (2 * examples)) / (1 + _Z**2 / examples)
        spread = quality * (1 - quality) / examples + _Z**2 / (4 * examples**2)
        half = _Z / (1 + _Z**2 / examples) * sqrt(max(0.0, spread))
        return max(0.0, centre - half), min(1.0, centre + half)
    if metric in ("pearson", "spearman") and examples > 3 and abs(quality) < 1:
        variance = (1 + quality**2 / 2 if metric == "spearman" else 1.0) / (examples - 3)
        middle, half = atanh(quality), _Z * sqrt(variance)
        return tanh(middle - half), tanh(middle + half)
    return None
