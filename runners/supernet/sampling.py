"""Which configurations of a space a supernet is trained at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from space.config import VocabularyScore
from space.dimensions import Choices, Chooser, Range, draw_from, ends
from space.families.transformer.config import TransformerConfig
from space.families.transformer.elastic import Extent
from space.joint import JointSpace

_FAMILY = "transformer"
_LEVELS = 4  # shares of the vocabulary that stand for a range of them: texts are split once for each
_UNORDERED = frozenset({"heads", "block_size"})  # neither end makes the better student


class ElasticSpace:
    """The transformers of a space.

    Attributes:
        extent: the largest of each size.
        keeps: shares of the vocabulary that configurations are trained with, rising.
        scores: how the entries are chosen that are kept.

    Args:
        spec: section `space:` of the study file.
    """

    def __init__(self, spec: Any) -> None:
        self._space = JointSpace(spec)
        own = spec.transformer
        widths, heads = ends(own.width), ends(own.heads)

        def largest(dimension: Choices | Range) -> int:
            return int(max(ends(dimension)))

        self.extent = Extent(
            depth=largest(own.depth),
            width=largest(own.width),
            heads=largest(own.heads),
            head_size=int(max(widths)) // int(min(heads)),
            ffn_width=largest(own.ffn_width),
            embedding_width=largest(spec.embedding_width),
        )
        self.keeps = _levels(spec.vocabulary_keep)
        self.scores: tuple[VocabularyScore, ...] = ends(spec.vocabulary_score)  # type: ignore[assignment]

    def sandwich(self, generator: np.random.Generator, random_samples: int) -> list[TransformerConfig]:
        """The largest configuration, the smallest, and random ones; what has no order is drawn in all of them."""
        draws = [self._extreme(generator, "largest"), self._extreme(generator, "smallest")]
        draws += [draw_from(generator)] * random_samples
        return [self._config(choose) for choose in draws]

    def _config(self, choose: Chooser) -> TransformerConfig:
        def of_family(name: str, dimension: Choices | Range) -> Any:
            if name == "family":
                return _FAMILY
            # Nothing of a supernet depends on these: to draw them would make it depend on what may be drawn.
            if name == "accuracy_level" or name.startswith("recipe."):
                return ends(dimension)[0]
            return choose(name, dimension)

        found = self._space.config_from(self._space.choose(of_family))
        assert isinstance(found, TransformerConfig)
        keep = min(self.keeps, key=lambda level: abs(level - found.vocabulary_keep))
        return found.model_copy(update={"vocabulary_keep": keep})

    def _extreme(self, generator: np.random.Generator, which: Literal["largest", "smallest"]) -> Chooser:
        draw = draw_from(generator)
        pick: Callable[..., Any] = max if which == "largest" else min

        def choose(name: str, dimension: Choices | Range) -> Any:
            values = ends(dimension)
            if name in _UNORDERED or isinstance(values[0], str):
                return draw(name, dimension)
            return pick(values)

        return choose


def _levels(dimension: Choices | Range) -> tuple[float, ...]:
    if isinstance(dimension, Choices):
        return tuple(sorted(float(value) for value in dimension.values))
    return tuple(float(value) for value in np.unique(np.geomspace(dimension.low, dimension.high, _LEVELS)))
