"""Differentiable search of convolutional cells (AdaBERT, Chen et al. 2020, arXiv 2001.04246)."""

from runners.differentiable.derive import Cell, collapse_of
from runners.differentiable.search import Derivation, derive_cells
from runners.differentiable.spec import DifferentiableSpec

__all__ = ["Cell", "Derivation", "DifferentiableSpec", "collapse_of", "derive_cells"]
