"""Transfer text: unlabelled text that the teacher scores once and students learn from."""

from __future__ import annotations

from runners.transfer.prepare import check_transfer, prepare_transfer
from runners.transfer.spec import FileSource, HubSource, TransferSpec
from runners.transfer.store import TransferOutputs

__all__ = ["FileSource", "HubSource", "TransferOutputs", "TransferSpec", "check_transfer", "prepare_transfer"]
