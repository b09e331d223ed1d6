"""The known-cost sampler: model quality, read everything else off."""

from search.samplers.known_cost.known import Costs, KnownCosts
from search.samplers.known_cost.prior import OlderQualities, Prior
from search.samplers.known_cost.sampler import KnownCostSampler

__all__ = ["Costs", "KnownCostSampler", "KnownCosts", "OlderQualities", "Prior"]
