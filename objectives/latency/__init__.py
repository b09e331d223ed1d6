"""Latency of a model on a device: counts of an emulated run -> milliseconds of a device profile."""

from objectives.latency.counts import CacheCounts, ExecutionCounts, read_counts
from objectives.latency.cycles import Cycles, cost_model_version, cycles, milliseconds
from objectives.latency.estimate import LatencyEstimate, LatencyModel
from objectives.latency.profile import DeviceProfile, known_profiles, load_profile
from objectives.latency.reading import LatencyReading, reading_from_counts

__all__ = [
    "CacheCounts",
    "Cycles",
    "DeviceProfile",
    "ExecutionCounts",
    "LatencyEstimate",
    "LatencyModel",
    "LatencyReading",
    "cost_model_version",
    "cycles",
    "known_profiles",
    "load_profile",
    "milliseconds",
    "read_counts",
    "reading_from_counts",
]
