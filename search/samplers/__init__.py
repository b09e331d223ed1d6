"""Who proposes the next configuration.

A study asks through `PerTrialSampler`, which makes its inner sampler anew for every trial, seeded from the
study's seed and the trial's place in the study. All other memory of a sampler is the storage, so a stopped
and resumed study goes on with the proposals that an uninterrupted one would have made (exactly so with one
worker; with several, the order in which results arrive matters).
"""

from search.samplers.named import SAMPLERS, SamplerName
from search.samplers.of_study import costs_of, fitting_sampler, study_sampler
from search.samplers.per_trial import PerTrialSampler, worth_by
from search.samplers.places import PLACE, RETRY_OF, place, seeds

__all__ = [
    "PLACE",
    "RETRY_OF",
    "SAMPLERS",
    "PerTrialSampler",
    "SamplerName",
    "costs_of",
    "fitting_sampler",
    "place",
    "seeds",
    "study_sampler",
    "worth_by",
]
