"""Students of a meta-teacher against students of a fine-tuned teacher, domain by domain (Meta-KD).

    python tests/benchmarks/meta_teacher.py DIR --output results --seeds 3

DIR holds train.parquet and validation.parquet with the columns sentence, label and domain (amazon_blitzer). For each
domain there are three settings:

- `target`: the teacher learns from all domains, students from this one;
- `unseen`: neither sees anything of this domain, on which both are judged;
- `scarce`: as `target`, with a hundredth of the domain's rows (`--share`) for teacher and students; the other domains
  are whole.

Arms: `finetuned` (usual teacher of the same rows), `meta` (meta-teacher, its answers weighed by domain expertise),
`meta-unweighed` (meta-teacher, all answers count alike), `weighed` (fine-tuned teacher, answers weighed), and `single`
(a teacher fine-tuned on the students' own domain, which is the paper's baseline; not for `unseen`). All students have
one architecture under 2,000,000 bytes and as many steps; latency is estimated.

Every training is a line in FOLDER/trainings.jsonl, and a run that was stopped goes on there. Teachers take most of the
time: by default there is one for all seeds, so that the spread is that of students; with `--teachers 3` seeds 0, 1 and
2 have teachers, and scarce rows, of their own. Prints the table, which is in FOLDER/table.md too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from runners.plan import FidelitySpec, TrialPlan
from runners.trial import Prepared, prepare, run_trial
from space.config import Recipe, StudentConfig
from space.families import parse_config

SETTINGS = ("target", "unseen", "scarce")
ARMS = ("finetuned", "meta", "meta-unweighed", "weighed", "single")
LAYER = {"ffn_width": 384, "token_keep": 1.0, "attention_bits": 4, "ffn_bits": 4}
STUDENT = {
    "family": "transformer",
    "vocabulary_keep": 0.25,
    "embedding_width": 96,
    "embedding_bits": 4,
    "block_size": 64,
    "accuracy_level": 4,
    "width": 192,
    "heads": 8,
    "activation": "gelu",
    "unpacking": "load",
    "layers": [LAYER] * 3,
}
RECIPE: dict[str, Any] = {
    "learning_rate": 1e-3,
    "label_weight": 0.25,
    "logit_weight": 1.0,
    "hidden_weight": 1.0,
    "temperature": 2.0,
    "teacher_learning_rate": 0.0,
    "state_weight": 1.0,
    "initialization": "layers",
}
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teachers", type=int, default=1, help="seeds of teachers and of scarce rows")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--arms", default="finetuned,meta")
    parser.add_argument("--domains", default="", help="all by default")
    parser.add_argument("--share", type=float, default=0.01, help="of a scarce domain's rows")
    parser.add_argument("--rows", type=int, help="of each domain's train rows, at most so many")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--teacher-epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600, help="of each student")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    settings, arms = arguments.settings.split(","), arguments.arms.split(",")
    for given, possible in ((settings, SETTINGS), (arms, ARMS)):
        if wrong := [name for name in given if name not in possible]:
            parser.error(f"there is no {wrong[0]!r}: {', '.join(possible)}")
    torch.set_num_threads(arguments.threads)
    train = pq.read_table(arguments.data / "train.parquet")
    known = sorted(set(train.column("domain").to_pylist()))
    domains = arguments.domains.split(",") if arguments.domains else known
    if wrong := [name for name in domains if name not in known]:
        parser.error(f"there is no domain {wrong[0]!r}: {', '.join(known)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / "trainings.jsonl"
    found = {line["key"]: line for line in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    lines = []
    # One seed after the other, so that an early look has all of the first.
    for seed in range(arguments.seeds):
        for setting in settings:
            for domain in domains:
                for arm in arms:
                    if arm == "single" and setting == "unseen":
                        continue
                    case = {"setting": setting, "domain": domain, "arm": arm, "seed": seed}
                    case["teacher_seed"] = seed % arguments.teachers
                    key = key_of(case, arguments)
                    if key not in found:
                        found[key] = {"key": key, **case, **training(case, arguments, train)}
                        with file.open("a") as output:
                            output.write(json.dumps(found[key]) + "\n")
                        print(json.dumps(found[key]), flush=True)
                    lines.append(found[key])
    text = table(lines, settings, domains, arms)
    (arguments.output / "table.md").write_text(text)
    print(text)


def key_of(case: dict[str, Any], arguments: argparse.Namespace) -> str:
    """What a training depends on, hashed; the data by their content."""
    digest = hashlib.sha256()
    for split in ("train", "validation"):
        digest.update((arguments.data / f"{split}.parquet").read_bytes())
    names = ("share", "rows", "max_length", "teacher_epochs", "steps")
    parts = [case, {name: getattr(arguments, name) for name in names}, STUDENT, RECIPE]
    digest.update(json.dumps(parts, sort_keys=True).encode())
    return digest.hexdigest()[:20]


def training(case: dict[str, Any], arguments: argparse.Namespace, train: pa.Table) -> dict[str, Any]:
    """Prepare the teacher and train one student."""
    begin = time.process_time()
    plan = plan_of(case, arguments, train)
    prepared = prepare(plan)
    (taught,) = prepared.tasks.values()
    plan = plan.model_copy(update={"fidelity": fidelity(prepared, arguments.steps)})
    weighed = case["arm"] in ("meta", "weighed")
    recipe = Recipe(**RECIPE, example_weighting="domain_expertise" if weighed else "none")
    config: StudentConfig = parse_config(STUDENT)
    with tempfile.TemporaryDirectory(prefix="shoebox-meta-") as folder:
        record = run_trial(plan, prepared, 0, config, recipe, case["seed"], Path(folder) / "bundle")
    return {
        "quality": record.quality,
        "teacher": taught.teacher.validation_quality,
        "rows": taught.examples,
        "bytes": record.deployed_bytes,
        "ms": record.latency.milliseconds,
        "tokens": record.latency.tokens,
        "train_seconds": record.seconds["train"],
        "cpu_seconds": round(time.process_time() - begin, 1),
    }


def fidelity(prepared: Prepared, steps: int) -> FidelitySpec:
    """As many steps, however many rows there are."""
    (taught,) = prepared.tasks.values()
    return FidelitySpec(epochs=steps / math.ceil(taught.examples / BATCH), batch_size=BATCH)


def plan_of(case: dict[str, Any], arguments: argparse.Namespace, train: pa.Table) -> TrialPlan:
    """The study of one case, on a copy of the data where rows are left out."""
    setting, domain, arm = case["setting"], case["domain"], case["arm"]
    generator = np.random.default_rng(case["teacher_seed"])
    names = np.array(train.column("domain").to_pylist())
    rows = np.concatenate(
        [generator.permutation(np.flatnonzero(names == name))[: arguments.rows] for name in set_of(names)]
    )
    if setting == "scarce":
        own = rows[names[rows] == domain]
        kept = own[: max(2, round(arguments.share * len(own)))]
        rows = np.concatenate([rows[names[rows] != domain], kept])
    folder = arguments.output / "data" / hashlib.sha256(np.sort(rows).tobytes()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(train.take(pa.array(np.sort(rows))), folder / "train.parquet")
    pq.write_table(pq.read_table(arguments.data / "validation.parquet"), folder / "validation.parquet")
    task: dict[str, Any] = {"data": {"path": str(folder)}, "labels": 2, "max_length": arguments.max_length}
    if arm == "single":
        task["where"] = {"domain": domain}
    else:
        task |= {"domain": "domain", "unseen" if setting == "unseen" else "target": domain}
    kind = "meta" if arm.startswith("meta") else "finetuned"
    sections = {
        "study": "meta-teacher",
        "task": task,
        "teacher": {"kind": kind, "epochs": arguments.teacher_epochs, "seed": case["teacher_seed"]},
        "device": {"profile": "cortex-a53", "latency": "estimated"},
        "limits": {},
        "fidelity": {},
    }
    return TrialPlan.model_validate(sections)


def set_of(names: np.ndarray) -> list[str]:
    return [str(name) for name in np.unique(names)]


def table(lines: list[dict[str, Any]], settings: list[str], domains: list[str], arms: list[str]) -> str:
    """Mean and standard deviation over seeds; differences are to the first arm, seed by seed."""
    others = arms[1:]
    heads = [f"{what} of {arm}" for arm in arms for what in ("teacher", "student")]
    heads = ["setting", "domain", *heads, *(f"{arm} - {arms[0]}" for arm in others)]
    text = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for setting in settings:
        for domain in (*domains, "all"):
            cells = [setting, "mean of all" if domain == "all" else domain]
            of = {arm: by_seed(lines, setting, domains if domain == "all" else [domain], arm) for arm in arms}
            for arm in arms:
                cells += [spread([one[0] for one in of[arm].values()]), spread([one[1] for one in of[arm].values()])]
            for arm in others:
                both = of[arm].keys() & of[arms[0]].keys()
                cells.append(spread([of[arm][seed][1] - of[arms[0]][seed][1] for seed in sorted(both)], "+"))
            text.append(f"| {' | '.join(cells)} |")
    size = max((line["bytes"] for line in lines), default=0)
    milliseconds = [line["ms"] for line in lines]
    if lines:
        text.append(
            f"\nAccuracy on the domain's validation rows; largest student {size:,} bytes, {min(milliseconds):.1f} to "
            f"{max(milliseconds):.1f} ms (cortex-a53, estimated)."
        )
    return "\n".join(text) + "\n"


def by_seed(lines: list[dict[str, Any]], setting: str, domains: list[str], arm: str) -> dict[int, tuple[float, float]]:
    """Quality of teacher and student by seed, means over domains; of seeds that have all of these."""
    own = [line for line in lines if line["setting"] == setting and line["arm"] == arm and line["domain"] in domains]
    found = {}
    for seed in sorted({line["seed"] for line in own}):
        rows = [line for line in own if line["seed"] == seed]
        if len(rows) == len(domains):
            found[seed] = (np.mean([row["teacher"] for row in rows]), np.mean([row["quality"] for row in rows]))
    return found


def spread(values: list[float], sign: str = "") -> str:
    """Mean and sample standard deviation; of one value, that value."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:{sign}.3f}"
    return f"{np.mean(values):{sign}.3f} ± {np.std(values, ddof=1):.3f}"


if __name__ == "__main__":
    main()
