"""The parts of an emulator and where they come from.

Nothing is installed into the system and no rights are needed: packages of the distribution that are missing
are downloaded and unpacked into a private folder, with apt's own state (lists, cache) in there too. What the
system already has is used as it is. apt and pip verify what they download against their signed indices.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from space.errors import InputError

GO_ON = "To go on without the emulator, use `--latency estimated`."
SYSTEM_ROOT = Path("/usr/aarch64-linux-gnu")
COUNTED = ("ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libstdc++.so.6")  # libraries whose code counts hold
_LIBRARY_PACKAGES = ["libc6-arm64-cross", "libstdc++6-arm64-cross", "libgcc-s1-arm64-cross"]
_WHEEL_PLATFORMS = ["manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64"]
_ZIG = "ziglang>=0.13,<1"
_GUEST = "aarch64-linux-gnu.2.28"  # what ONNX Runtime's wheel asks of the C library
_STEP_SECONDS = 900


def run_step(what: str, command: Sequence[str | Path], folder: Path, extra: Mapping[str, str] | None = None) -> str:
    """Run one step of the installation in ``folder`` and return what it prints.

    Raises:
        InputError: the program is missing, fails or takes longer than fifteen minutes.
    """
    environment = {**os.environ, "LC_ALL": "C", **(extra or {})}
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_STEP_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise InputError(f"Cannot {what}: there is no {command[0]} here.", GO_ON) from None
    except OSError as error:
        raise InputError(f"Cannot {what}: {command[0]} does not start ({error.strerror}).", GO_ON) from None
    except subprocess.TimeoutExpired:
        raise InputError(f"Cannot {what}: no answer within {_STEP_SECONDS} seconds.", GO_ON) from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"(?i)e:|error", line)] or lines[-1:] or ["no message"]
        raise InputError(f"Cannot {what}: {errors[0].rstrip('.')}.", GO_ON)
    return done.stdout


def require_platform() -> None:
    """Refuse what cannot work: the emulator needs Linux on x86-64."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise InputError(f"The emulator needs Linux on x86-64, this is {platform.platform()}.", GO_ON)


# ---- packages of the distribution


def _system_has_libraries() -> bool:
    names = ("ld-linux-aarch64.so.1", "libstdc++.so.6", "libgcc_s.so.1")
    return all((SYSTEM_ROOT / "lib" / name).exists() for name in names)


def system_files() -> list[Path]:
    """The files of the system that an emulator set up here runs; none where all of it is private."""
    qemu = shutil.which("qemu-aarch64")
    found = [Path(qemu)] if qemu else []
    if _system_has_libraries():
        found += [SYSTEM_ROOT / "lib" / name for name in COUNTED]
    return [path for path in found if path.exists()]


def missing_packages() -> list[str]:
    """The packages that the system lacks."""
    missing = [] if shutil.which("qemu-aarch64") else ["qemu-user"]
    return missing + ([] if _system_has_libraries() else _LIBRARY_PACKAGES)


def unpack_packages(names: Sequence[str], root: Path) -> None:
    """Download packages and what they depend on, and unpack them below ``root``."""
    if not names:
        return
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise InputError(
            f"The emulator needs qemu-aarch64 (with plugins) and the AArch64 C library in {SYSTEM_ROOT}, and this"
            " system has no apt to fetch them.",
            f"Install them with your package manager. {GO_ON}",
        )
    work = root.with_name("apt")
    for folder in (root, work / "lists" / "partial", work / "cache" / "archives" / "partial", work / "packages"):
        folder.mkdir(parents=True, exist_ok=True)
    apt = ["apt-get", "-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}/cache"]
    apt += ["-o", "Debug::NoLocking=1"]
    if os.geteuid() == 0:  # else it would drop to a user who may not write here
        apt += ["-o", "APT::Sandbox::User=root"]
    run_step("read the package lists", [*apt, "update"], work)
    simulate = [*apt, "install", "--simulate", "--no-install-recommends", *names]
    plan = run_step(f"find the packages {', '.join(names)}", simulate, work)
    wanted = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+)", plan, re.MULTILINE)
    packages = [f"{name}={number}" for name, number in wanted]
    run_step("download packages", [*apt, "download", *packages], work / "packages")
    for package in sorted((work / "packages").glob("*.deb")):
        run_step(f"unpack {package.name}", ["dpkg", "--extract", package, root], work)
    shutil.rmtree(work)


def qemu_command(root: Path) -> tuple[str, ...]:
    """The command that starts the emulator: unpacked below ``root``, else the system's.

    An unpacked one is started through the dynamic loader with its own library path. An environment variable
    would do that too, but would be handed on to the emulated program.
    """
    private = root / "usr" / "bin" / "qemu-aarch64"
    if not private.exists():
        found = shutil.which("qemu-aarch64")
        if not found:
            raise InputError("The package qemu-user holds no qemu-aarch64.", GO_ON)
        return (found,)
    triplet = "x86_64-linux-gnu"
    loader = next(
        (path for path in root.rglob("ld-linux-x86-64.so.2") if path.resolve().is_relative_to(root.resolve())),
        Path("/lib64/ld-linux-x86-64.so.2"),
    )
    folders = [root / "usr" / "lib" / triplet, root / "lib" / triplet]
    return (str(loader), "--library-path", ":".join(str(folder) for folder in folders), str(private))


def system_libraries(root: Path) -> Path:
    """The folder of the AArch64 system libraries: below ``root``, else the system's."""
    private = root / SYSTEM_ROOT.relative_to("/") / "lib"
    return private if private.exists() else SYSTEM_ROOT / "lib"


# ---- packages from the Python index


def _pip_download(what: str, requirement: str, folder: Path, *options: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run_step(f"download {what}", [*pip, "--only-binary=:all:", *options, "-d", folder, requirement], folder)
    return next(folder.glob("*.whl"))


def fetch_runtime(folder: Path) -> Path:
    """ONNX Runtime's library for AArch64, in the version that is installed here."""
    options = [item for name in _WHEEL_PLATFORMS for item in ("--platform", name)]
    options += ["--python-version", f"{sys.version_info.major}.{sys.version_info.minor}"]
    requirement = f"onnxruntime=={version('onnxruntime')}"
    wheel = _pip_download("ONNX Runtime for AArch64", requirement, folder / "wheel", *options)
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if re.search(r"capi/libonnxruntime\.so\.[\d.]+$", n))
        target = folder / "libonnxruntime.so"
        with archive.open(name) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    shutil.rmtree(folder / "wheel")
    return target


class Compilers:
    """C compilers for the guest and for this machine; Zig's, from the Python index, where there is none."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._zig: Path | None = None

    def _zig_command(self) -> list[str]:
        if self._zig is None:
            wheel = _pip_download("a C compiler (ziglang)", _ZIG, self.work / "wheel")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(self.work / "zig")
            wheel.unlink()
            self._zig = self.work / "zig" / "ziglang" / "zig"
            self._zig.chmod(0o755)
        return [str(self._zig), "cc"]

    def compile(self, sources: Sequence[Path], target: Path, *, guest: bool, options: Sequence[str]) -> None:
        """Compile C files into one program or library, for the emulated core (``guest``) or for this machine."""
        found = shutil.which("aarch64-linux-gnu-gcc" if guest else "gcc")
        arguments = ["-O2", *options, *map(str, sources), "-o", str(target), "-ldl"]
        what = f"compile {target.name}"
        if found:
            try:
                run_step(what, [found, *arguments], self.work)
                return
            except InputError:
                pass  # a compiler without its headers is as good as none
        command = self._zig_command() + (["-target", _GUEST] if guest else [])
        caches = {name: str(self.work / "zig-cache") for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}
        run_step(what, [*command, *arguments], self.work, caches)
