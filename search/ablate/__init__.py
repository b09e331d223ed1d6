"""What each method is worth: one configuration trained whole, and again with one method removed at a time."""

from search.ablate.report import Ablation, AblationRow
from search.ablate.rows import ROWS, Setup
from search.ablate.run import ablate
from search.ablate.start import read_setup, start_from_file, start_from_study

__all__ = [
    "ROWS",
    "Ablation",
    "AblationRow",
    "Setup",
    "ablate",
    "read_setup",
    "start_from_file",
    "start_from_study",
]
