"""The known-cost sampler: model quality, read everything else off."""

from search.samplers.known_cost.history import RUNG_QUALITIES
from search.samplers.known_cost.known import Costs, KnownCosts
from search.samplers.known_cost.sampler import KnownCostSampler

__all__ = ["RUNG_QUALITIES", "Costs", "KnownCostSampler", "KnownCosts"]
