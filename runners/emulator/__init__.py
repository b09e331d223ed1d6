"""ONNX Runtime on an emulated ARM core: instruction and cache counts instead of a clock.

`install` sets it up, `find_installation` looks for it, `measure` times models with it, `check` shows that it
works. Emulated counts repeat to the last instruction whatever else the machine does; a clock under emulation
would not.
"""

from runners.emulator.check import check
from runners.emulator.evaluation import evaluate_on_arm
from runners.emulator.execution import EmulatedRun, measure, measure_each, run_each, run_models
from runners.emulator.install import install
from runners.emulator.installation import Installation, find_installation

__all__ = [
    "EmulatedRun",
    "Installation",
    "check",
    "evaluate_on_arm",
    "find_installation",
    "install",
    "measure",
    "measure_each",
    "run_each",
    "run_models",
]
