"""Start a study from what older ones of the storage found.

The good configurations of the most similar older studies are tried first, in any sampler's study; the sampler
`known-cost` also takes the older qualities as its first idea of the new ones. What the older trials measured is never
entered as if it were the new task's.
"""

from search.warm_start.agreement import agreement, tell_agreement, withdraw
from search.warm_start.fingerprint import FINGERPRINT, Fingerprint, fingerprint, similarity
from search.warm_start.plan import (
    AUTO,
    WARM_START,
    OlderStudy,
    WarmStart,
    enqueue_missing,
    known_qualities,
    older_studies,
    plan_warm_start,
)

__all__ = [
    "AUTO",
    "FINGERPRINT",
    "WARM_START",
    "Fingerprint",
    "OlderStudy",
    "WarmStart",
    "agreement",
    "enqueue_missing",
    "fingerprint",
    "known_qualities",
    "older_studies",
    "plan_warm_start",
    "similarity",
    "tell_agreement",
    "withdraw",
]
