"""Replay samplers on problems whose answers cost nothing, to compare them over many seeds."""

from search.bench.contender import Contender
from search.bench.problem import Problem
from search.bench.report import Comparison, compare
from search.bench.simulation import Replay, replay
from search.bench.synthetic import SyntheticProblem

__all__ = ["Comparison", "Contender", "Problem", "Replay", "SyntheticProblem", "compare", "replay"]
