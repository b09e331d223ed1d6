"""What is compared: a sampler, with early stopping or without."""

from __future__ import annotations

from typing import NamedTuple, get_args

from search.samplers import SAMPLERS, SamplerName
from search.validation import closest
from space.errors import InputError

HALVING = "+halving"


class Contender(NamedTuple):
    """A way to search.

    Attributes:
        sampler: who proposes.
        early_stopping: whether trials stop at rungs by asynchronous successive halving.
    """

    sampler: SamplerName
    early_stopping: bool = False

    @property
    def label(self) -> str:
        """As the command line names it."""
        return f"{self.sampler}{HALVING if self.early_stopping else ''}"

    @classmethod
    def parse(cls, text: str) -> Contender:
        """The contender of a label.

        Raises:
            InputError: there is no such sampler.
        """
        name = text.removesuffix(HALVING)
        for known in SAMPLERS:
            if known == name:
                return cls(known, text.endswith(HALVING))
        raise InputError(f"--samplers: there is no sampler {name!r}.", closest(name, get_args(SamplerName)))
