"""Derived cells against cells at random and none at all, at about equal bytes.

    python tests/benchmarks/cells.py STUDY.yaml --seeds 3 --random 3 --trainings 2

The study has the family conv, one task that classifies texts, and space.conv.depth with 0. For each seed a supernet is
trained, and what it derives is trained beside cells at random and a student without cells, each from the same seeds.
Prints one line of JSON for each search and each training, then means over all seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from runners.trial import cost_predictor, prepare, run_trial
from search.premises import Premises
from search.propose import ProposeSpec, propose_cells
from search.study_file import load_study_file
from space import JointSpace


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--random", type=int, default=3, help="cells at random for each seed")
    parser.add_argument("--trainings", type=int, default=1, help="of each cell")
    parser.add_argument("--search", type=json.loads, default={}, help="JSON of search.propose.differentiable")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = load_study_file(arguments.study)
    plan, space = file.plan(), JointSpace(file.space)
    prepared = prepare(plan)
    predict = cost_predictor(plan, prepared)
    fields = {"differentiable": arguments.search, "random_cells": arguments.random, "no_cell": True}
    spec = ProposeSpec.model_validate(fields)
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for seed in range(arguments.seeds):
        begin = time.process_time()
        proposals = propose_cells(spec, Premises(file.limits, seed, plan, prepared, space, predict))
        print(json.dumps({"seed": seed, "cpu": round(time.process_time() - begin, 1), **proposals.report}), flush=True)
        for number, (proposer, config) in enumerate(proposals.students):
            for training in range(arguments.trainings):
                with tempfile.TemporaryDirectory(prefix="shoebox-cells-") as folder:
                    given = (number, config, proposals.recipe, 1000 * seed + training, Path(folder) / "bundle")
                    record = run_trial(plan, prepared, *given)
                measured = (record.quality, float(record.deployed_bytes), record.latency.milliseconds)
                found[proposer].append(measured)
                line = {"seed": seed, "proposer": proposer, "quality": measured[0], "bytes": record.deployed_bytes}
                print(json.dumps({**line, "ms": measured[2], "student": config.summary()}), flush=True)
    for proposer, rows in found.items():
        quality, size, milliseconds = np.mean(rows, axis=0)
        spread = np.std(np.array(rows)[:, 0])
        print(f"{proposer}: {quality:.4f} +- {spread:.4f} of {len(rows)}, {size:,.0f} bytes, {milliseconds:.3f} ms")


if __name__ == "__main__":
    main()
