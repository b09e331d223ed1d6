"""One student trained at all sizes of a space at once, which trials inherit their weights from."""

from __future__ import annotations

# Training is imported from its module: it needs the losses of trials, which need `runners.plan`, which needs this
# section of a study file.
from runners.supernet.spec import SupernetSpec

__all__ = ["SupernetSpec"]
