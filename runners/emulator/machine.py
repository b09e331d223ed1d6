"""The machine that the emulated program believes to run on: one core of a device, and nothing of this one's.

What qemu does not find below its ``-L`` folder it opens on this machine, whose number of CPUs, caches and PCI devices
would move counts by up to 1.8 %: the runtime notes them on its heap. So that folder holds whatever is asked for.
"""

from __future__ import annotations

from pathlib import Path

from objectives.latency import DeviceProfile
from runners.emulator.installation import Installation

RUNTIME = Path("/shoebox/libonnxruntime.so")  # its folder goes through the loader's heap: the same wherever it lies
LIBRARIES = "/lib"
_EMPTY_FOLDERS = ("sys/bus/pci/devices", "sys/class/drm", "sys/class/accel")
_CPUS = "sys/devices/system/cpu"


def write_machine(root: Path, installation: Installation, profile: DeviceProfile) -> None:
    """Fill the new folder ``root``, which the emulated program sees as ``/``. Raises OSError."""
    for folder in _EMPTY_FOLDERS:
        (root / folder).mkdir(parents=True)
    for name, text in _files(profile).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="ascii")
    links = {LIBRARIES: installation.system_libraries, str(RUNTIME): installation.library}
    for name, target in links.items():
        link = root / name.lstrip("/")
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target)


def _files(profile: DeviceProfile) -> dict[str, str]:
    kilohertz = round(profile.clock_ghz.value * 1e6)
    core: dict[str, int | str] = {
        "cpufreq/cpuinfo_max_freq": kilohertz,
        "cpufreq/cpuinfo_min_freq": kilohertz,
        "topology/physical_package_id": 0,
        "topology/cluster_cpus_list": 0,
        "topology/core_siblings_list": 0,
    }
    for index, (name, size) in enumerate(profile.memory.caches().items()):
        cache: dict[str, int | str] = {"level": int(name[1]), "size": f"{size.kib}K", "shared_cpu_list": 0}
        core |= {f"cache/index{index}/{key}": value for key, value in cache.items()}
    values: dict[str, int | str] = dict.fromkeys(("kernel_max", "possible", "present", "online"), 0)
    values |= {f"cpu0/{name}": value for name, value in core.items()}
    texts = {"proc/cpuinfo": _cpuinfo(profile), "etc/ld.so.preload": ""}
    return texts | {f"{_CPUS}/{name}": f"{value}\n" for name, value in values.items()}


def _cpuinfo(profile: DeviceProfile) -> str:
    """ARM-style: the runtime would crash on that of this machine."""
    lines = [
        "processor\t: 0",
        "BogoMIPS\t: 38.40",
        f"Features\t: {profile.emulation.features}",
        "CPU implementer\t: 0x41",
        "CPU architecture: 8",
        "CPU variant\t: 0x0",
        f"CPU part\t: {profile.emulation.part}",
        "CPU revision\t: 4",
    ]
    return "\n".join(lines) + "\n\n"
