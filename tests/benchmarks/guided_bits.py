"""Guided bits against bits at random, of the same student at about equal bytes.

    python tests/benchmarks/guided_bits.py STUDY.yaml --seeds 3 --budgets 3 --random 2

STUDY is a study file, or the name of a shipped one, with bits among its dimensions. For each seed, bits are proposed
for each byte budget (`search.guided_bits`); beside each student, others are trained that differ in their bits alone,
drawn at random, whose size is nearest to its own. Prints a line of JSON for each search and each training, then means
over all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runners.trial import cost_predictor, prepare, run_trial
from search.guided_bits import GuidedBitsSpec, propose_bits
from search.premises import Premises
from search.study_file import load_study_file
from space.config import StudentConfig
from space.families import deployed_bytes
from space.joint import JointSpace

_DRAWS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, default=3)
    parser.add_argument("--random", type=int, default=2, help="students with bits at random beside each guided one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = load_study_file(arguments.study, {"data": arguments.data, "latency": "estimated"})
    plan, space = file.plan(), JointSpace(file.space)
    prepared = prepare(plan)
    predict = cost_predictor(plan, prepared)
    spec = GuidedBitsSpec(budgets=arguments.budgets)
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for seed in range(arguments.seeds):
        guided = propose_bits(spec, Premises(file.limits, seed, plan, prepared, space, predict))
        print(json.dumps({"seed": seed, **guided.report}), flush=True)
        generator = np.random.default_rng([seed, 5])
        values = {name: [int(bits) for bits in row] for name, row in guided.report["increase"].items()}
        for config in guided.students:
            size = deployed_bytes(config, prepared.shape, prepared.vocabulary)
            drawn: list[tuple[int, StudentConfig]] = []
            for _ in range(_DRAWS):
                bits = {name: int(generator.choice(choices)) for name, choices in values.items()}
                other = space.config_from({**guided.report["base"], **bits})
                drawn.append((abs(deployed_bytes(other, prepared.shape, prepared.vocabulary) - size), other))
            drawn.sort(key=lambda one: one[0])
            others = list(dict.fromkeys(other for _, other in drawn if other != config))[: arguments.random]
            for proposer, one in [("guided", config), *(("random", other) for other in others)]:
                with tempfile.TemporaryDirectory(prefix="shoebox-bits-") as folder:
                    record = run_trial(plan, prepared, 0, one, guided.recipe, seed, Path(folder) / "bundle")
                found[proposer].append((record.quality, float(record.deployed_bytes)))
                line: dict[str, Any] = {"seed": seed, "proposer": proposer, "quality": record.quality}
                print(json.dumps({**line, "bytes": record.deployed_bytes, "student": one.summary()}), flush=True)
    for proposer, rows in found.items():
        quality, mean_bytes = np.mean(rows, axis=0)
        spread = np.std(np.array(rows)[:, 0])
        print(f"{proposer}: {quality:.4f} +- {spread:.4f} of {len(rows)}, {mean_bytes:,.0f} bytes")


if __name__ == "__main__":
    main()
