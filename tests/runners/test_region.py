"""The place of large blocks, by itself: a C program on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from runners.emulator.installation import source
from runners.emulator.parts import Compilers


def test_region_and_heap(tmp_path: Path) -> None:
    for name in ("heap.c", "heap.h", "region.c", "region.h"):
        (tmp_path / name).write_bytes(source(name))
    program = tmp_path / "region_test"
    sources = [Path(__file__).with_name("region_test.c"), tmp_path / "heap.c", tmp_path / "region.c"]
    Compilers(tmp_path).compile(sources, program, guest=False, options=["-rdynamic", f"-I{tmp_path}"])
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("passed\n", 0), done.stderr
