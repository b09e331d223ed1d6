"""Compare the cycles that the cost model gives to hot blocks with those of LLVM's models of the same cores.

    python tests/benchmarks/cost_model_against_llvm_mca.py

Runs three students with random weights in the emulator, takes the blocks that make up 90 % of the modelled compute
cycles, and asks `llvm-mca` about each of them. Both sides give the cycles of one more round of a block that is
repeated without end. Writes `cost_model_against_llvm_mca.md` beside this file. LLVM 19 is taken from the system, or
fetched from the distribution into the cache folder.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from objectives.latency import DeviceProfile, ExecutionCounts, load_profile
from objectives.latency.cycles import in_order_cycles, jumps_to_itself, out_of_order_cycles
from objectives.latency.decoding import decode
from objectives.latency.profile import InOrderPipeline
from runners.emulator import find_installation, install, run_models
from runners.emulator.parts import unpack_packages
from space import TaskShape
from space.families import build_student, export_model, parse_config
from space.paths import cache

LLVM = 19
SHARE = 0.9  # of the modelled compute cycles of a model
TOKENS = 32
LISTED = 0.005  # smaller shares are not listed one by one
TOLERATED = 0.25
ROUNDS = 200
# Device -> the models of LLVM that it is compared with, the first of them the closest.
MODELS = {
    "cortex-a53": ("cortex-a53", "cortex-a55"),
    "cortex-a55": ("cortex-a55",),
    "cortex-a72": ("cortex-a72",),
    "cortex-a76": ("neoverse-n1",),
}
# Name -> bits of attention and feed-forward of each layer, activation, accuracy level.
STUDENTS = {
    "8 bits, gelu, float": ((8, 8, 8), "gelu", 0),
    "4 bits, relu, int8": ((4, 4, 4), "relu", 4),
    "2, 4 and 2 bits, gelu, int8": ((2, 4, 2), "gelu", 4),
}
REMARKS = """## What remains, and why

- **LLVM's `cortex-a53` is coarser than the core**, and the blocks that are off there are left as they are. It gives
  every vector and floating-point result 6 cycles and a multiply-add 10. LLVM's main branch
  (`llvm/lib/Target/AArch64/AArch64SchedA53.td`) has since been corrected by measurement to what our profile has: 4
  for floating point, 8 for a multiply-add (4 to the next one's sum), 2 and 3 for integer vectors. Both versions let
  work on 128 bits occupy a unit for two cycles, where GCC's `cortex-a53.md`, contributed by Arm, has two units of 64
  bits that such work uses at once, for one cycle: the profile follows GCC, and only a measurement on a board can
  settle it. A load takes 4 cycles in LLVM's model, 2 or 3 in GCC's. The column `cortex-a55` shows the same blocks in
  LLVM's model of the next core, which issues alike; there a multiply-add takes 4 cycles and a division 13, here 8 and
  18, which is why GELU (22 fmla) and layer normalisation differ.
- **Flags** take 3 cycles to a branch or a conditional selection in LLVM's in-order models. In GCC's `cortex-a53.md`,
  and in ours, a selection has them after 1 and a branch does not wait: it is predicted. Short blocks that end in a
  comparison and a branch, and the loops that unpack weights, are therefore cheaper here.
- **Loads of 128 bits** issue like any other in LLVM's `cortex-a55`. On both in-order cores they block issue for two
  cycles: GCC's `cortex-a53.md`, ncnn's developer guide (`arm-a53-a55-dual-issue`), and ONNX Runtime, whose kernels for
  these cores avoid them (commit dc721591). Kernels full of them are therefore dearer here.
- **One latency for a kind** of instruction: on the A55, vector logic takes 1 cycle and is modelled with 2.
- **`cortex-a72` in LLVM is the model of the A57**, whose additions take 5 cycles and multiply-adds 9, and whose
  permutes of 128 bits occupy a port three times. The profile has the shorter figures that the A72 is known for, as
  guesses. The product kernels, which dominate, agree.
- **Out-of-order blocks that do not jump to themselves** are repeated here only to be compared: LLVM then carries
  registers from round to round that the program overwrites in between, and its window of instructions is limited,
  ours is not. That matters most for the 2-bit kernels on the A76.
"""


@dataclass(frozen=True)
class Row:
    """One block of one model: cycles of a round here and in LLVM's models."""

    name: str
    instructions: int
    loops: bool
    executions: int
    share: float
    charged: float
    ours: float
    theirs: tuple[float, ...]


class Llvm:
    """The tools of LLVM that are needed, and their version."""

    def __init__(self) -> None:
        names = (f"llvm-mc-{LLVM}", f"llvm-mca-{LLVM}")
        self.environment = dict(os.environ)
        self.assembler, self.analyser = (shutil.which(name) or "" for name in names)
        if not (self.assembler and self.analyser):
            root = cache() / "llvm" / f"llvm-{LLVM}"
            self.assembler, self.analyser = (str(root / "usr" / "bin" / name) for name in names)
            if not Path(self.analyser).exists():
                building = root.with_name(f"building-{os.getpid()}") / "root"
                unpack_packages([f"llvm-{LLVM}"], building)
                os.replace(building, root)
                building.parent.rmdir()
            folders = [root / "usr" / "lib" / "x86_64-linux-gnu", root / "usr" / "lib" / f"llvm-{LLVM}" / "lib"]
            self.environment["LD_LIBRARY_PATH"] = ":".join(map(str, folders))
        (self.version,) = re.findall(r"version (\S+)", self._run([self.analyser, "--version"], ""))[:1]

    def _run(self, command: Sequence[str], text: str) -> str:
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=self.environment, check=True)
        return done.stdout

    def disassemble(self, blocks: Sequence[tuple[int, ...]]) -> list[list[str]]:
        """The instructions of each block as text."""
        words = [word for block in blocks for word in block]
        text = "\n".join(" ".join(f"0x{byte:02x}" for byte in word.to_bytes(4, "little")) for word in words)
        command = [self.assembler, "--disassemble", "-triple=aarch64", "-mattr=+v8.4a,+fullfp16"]
        lines = [line.strip() for line in self._run(command, text).splitlines()]
        lines = [" ".join(line.split()) for line in lines if line and not line.startswith(".")]
        if len(lines) != len(words):
            raise RuntimeError(f"LLVM disassembles {len(lines)} of {len(words)} instructions")
        found, start = [], 0
        for block in blocks:
            found.append(lines[start : start + len(block)])
            start += len(block)
        return found

    def round_cycles(self, blocks: Sequence[Sequence[str]], core: str) -> list[float]:
        """Cycles of one more round of each block."""
        regions = [
            [f"# LLVM-MCA-BEGIN {index}", *block, f"# LLVM-MCA-END {index}"] for index, block in enumerate(blocks)
        ]
        text = "\n".join(line for region in regions for line in region) + "\n"
        totals = []
        for rounds in (ROUNDS, 2 * ROUNDS):
            command = [self.analyser, "-march=aarch64", f"-mcpu={core}", "-mattr=+dotprod", f"-iterations={rounds}"]
            totals.append([int(number) for number in re.findall(r"Total Cycles:\s+(\d+)", self._run(command, text))])
        return [(twice - once) / ROUNDS for once, twice in zip(*totals, strict=True)]


def write_students(folder: Path) -> list[Path]:
    """Write `STUDENTS` with random weights."""
    shape, vocabulary, paths = TaskShape(outputs=2, segments=1, max_length=128), 4000, []
    for name, (bits, activation, level) in STUDENTS.items():
        layers = [{"ffn_width": 512, "token_keep": 1.0, "attention_bits": b, "ffn_bits": b} for b in bits]
        config = parse_config(
            {
                "family": "transformer",
                "vocabulary_keep": 1.0,
                "embedding_width": 64,
                "embedding_bits": bits[1],
                "block_size": 32,
                "accuracy_level": level,
                "width": 128,
                "heads": 4,
                "activation": activation,
                "layers": layers,
            }
        )
        torch.manual_seed(0)
        model = export_model(config, shape, vocabulary, build_student(config, shape, vocabulary))
        paths.append(folder / f"{name}.onnx")
        paths[-1].write_bytes(model.SerializeToString())
    return paths


def modelled(words: tuple[int, ...], profile: DeviceProfile, *, loops: bool) -> float:
    """Cycles of a block in our model, once or of one more round."""
    block = [decode(word) for word in words]
    if isinstance(profile.pipeline, InOrderPipeline):
        return in_order_cycles(block, profile.pipeline, loops=loops)
    return out_of_order_cycles(block, profile.pipeline, loops=loops)


def describe(lines: Sequence[str]) -> str:
    """The instructions that a block has most of."""
    counts = Counter(line.split()[0] for line in lines)
    return ", ".join(
        f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:4]
    )


def compare(counts: ExecutionCounts, profile: DeviceProfile, llvm: Llvm) -> list[Row]:
    """The blocks that make up `SHARE` of the compute cycles of a run."""
    charged = {words: modelled(words, profile, loops=jumps_to_itself(words)) for words in counts.blocks}
    spent = {words: charged[words] * executions for words, executions in counts.blocks.items()}
    total, covered, hot = sum(spent.values()), 0.0, []
    for words in sorted(spent, key=spent.__getitem__, reverse=True):
        if covered >= SHARE * total:
            break
        covered += spent[words]
        hot.append(words)
    texts = llvm.disassemble(hot)
    theirs = zip(*(llvm.round_cycles(texts, core) for core in MODELS[profile.name]), strict=True)
    return [
        Row(
            describe(lines),
            len(words),
            jumps_to_itself(words),
            counts.blocks[words],
            spent[words] / total,
            charged[words],
            modelled(words, profile, loops=True),
            cycles,
        )
        for words, lines, cycles in zip(hot, texts, theirs, strict=True)
    ]


def table(rows: Sequence[Row], cores: Sequence[str]) -> list[str]:
    """The rows and their total as a Markdown table; ratios that are off by more than `TOLERATED` in bold."""

    def ratio(ours: float, theirs: float) -> str:
        text = f"{ours / theirs:.2f}"
        return text if abs(ours / theirs - 1) <= TOLERATED else f"**{text}**"

    def total(name: str, some: Sequence[Row]) -> str:
        ours = sum(row.ours * row.executions for row in some)
        cells = [name, "", "", f"{sum(row.share for row in some):.1%}", "", f"{ours / 1e6:.2f} M"]
        for index in range(len(cores)):
            theirs = sum(row.theirs[index] * row.executions for row in some)
            cells.append(f"{theirs / 1e6:.2f} M | {ratio(ours, theirs)}")
        return "| " + " | ".join(cells) + " |"

    heads = ["block", "instructions", "loops", "share", "charged", "ours", *(f"{core} | ratio" for core in cores)]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (5 + 2 * len(cores)) + "|"]
    listed = [row for row in rows if row.share >= LISTED]
    for row in listed:
        cells = [row.name, str(row.instructions), "yes" if row.loops else "no", f"{row.share:.1%}"]
        cells += [f"{row.charged:.1f}", f"{row.ours:.1f}"]
        cells += [f"{cycles:.1f} | {ratio(row.ours, cycles)}" for cycles in row.theirs]
        lines.append("| " + " | ".join(cells) + " |")
    rest = [row for row in rows if row.share < LISTED]
    for name, some in (
        (f"{len(rest)} smaller blocks, by executions", rest),
        ("all of these, by executions", list(rows)),
    ):
        if some:
            lines.append(total(name, some))
    return lines


def summary(found: dict[tuple[str, str], list[Row]]) -> list[str]:
    """Per device and model of LLVM: the ratio over all students, and the share of cycles in blocks that are off."""
    lines = [
        "| device | LLVM's model | ratio of all blocks | cycles in blocks off by more than 25 % |",
        "|---|---|--:|--:|",
    ]
    for device, cores in MODELS.items():
        rows = [row for (name, _), some in found.items() if name == device for row in some]
        for index, core in enumerate(cores):
            ours = sum(row.ours * row.executions for row in rows)
            theirs = sum(row.theirs[index] * row.executions for row in rows)
            off = [row for row in rows if abs(row.ours / row.theirs[index] - 1) > TOLERATED]
            share = sum(row.ours * row.executions for row in off) / ours
            lines.append(f"| {device} | {core} | {ours / theirs:.2f} | {share:.0%} |")
    return lines


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Compare the cost model with llvm-mca.")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).with_suffix(".md"), help="Markdown to write"
    )
    output: Path = parser.parse_args().output
    llvm, installation = Llvm(), find_installation() or install(print)
    found: dict[tuple[str, str], list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="shoebox-llvm-mca-") as folder:
        paths = write_students(Path(folder))
        for device in MODELS:
            profile = load_profile(device)
            for path, run in zip(paths, run_models(paths, TOKENS, profile, installation), strict=True):
                found[device, path.stem] = compare(run.counts, profile, llvm)
    versions = ", ".join(f"{tool} {number}" for tool, number in installation.versions.items())
    lines = ["# The cost model against llvm-mca", ""]
    lines += [
        f"Written by `{Path(__file__).name}` with LLVM {llvm.version}; emulator: {versions}.",
        f"Three students with random weights, {TOKENS} tokens; blocks that make up {SHARE:.0%} of the modelled compute",
        f"cycles of each, those below {LISTED:.1%} summed up. `ours` and LLVM's columns are cycles of one more round",
        "of a block that is repeated without end, `charged` what the model takes for an execution (the same for blocks",
        "that jump to themselves, else once from an empty pipeline). A ratio below 1 says that LLVM's model is",
        f"slower; ratios off by more than {TOLERATED:.0%} are bold.",
        "",
        *summary(found),
        "",
        REMARKS,
    ]
    for (device, student), rows in found.items():
        lines += [f"## {device}: {student}", "", *table(rows, MODELS[device]), ""]
    temporary = output.with_name(f".{output.name}.part")
    temporary.write_text("\n".join(lines), encoding="utf-8")
    os.replace(temporary, output)
    print("\n".join(summary(found)))


if __name__ == "__main__":
    main()
