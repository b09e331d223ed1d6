"""A small study with a configuration beside it, for tests of ablations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from runners.grammar import sentiment
from search.ablate import Setup, start_from_file
from search.study_file import StudyFile

CONFIG = {
    "family": "transformer",
    "vocabulary_keep": 0.9,
    "embedding_width": 32,
    "embedding_bits": 4,
    "block_size": 32,
    "accuracy_level": 0,
    "width": 32,
    "heads": 2,
    "activation": "gelu",
    "layers": [{"ffn_width": 32, "token_keep": 0.5, "attention_bits": 4, "ffn_bits": 4}],
}
RECIPE = {
    "learning_rate": 2e-3,
    "label_weight": 0.3,
    "logit_weight": 1.0,
    "hidden_weight": 1.0,
    "temperature": 2.0,
    "teacher_learning_rate": 1e-4,
    "state_weight": 1.0,
    "initialization": "layers",
}


def write(folder: Path, model: Path, recipe: dict[str, Any] | None = None, **sections: Any) -> Path:
    """A study file and, beside it, a configuration with fields of its recipe changed."""
    content = {
        "name": "small",
        "task": {"data": {"grammar": "sentiment", "train": 60, "validation": 40}, "text": "sentence", "max_length": 32},
        "teacher": {"model": str(model), "epochs": 1},
        "limits": {"deployed_bytes": 20_000},
        "device": {"latency": "estimated", "tokens": 16},
        "fidelity": {"epochs": 1, "batch_size": 32},
        **sections,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump({name: section for name, section in content.items() if section is not None}))
    (folder / "setup.yaml").write_text(yaml.safe_dump({"config": CONFIG, "recipe": {**RECIPE, **(recipe or {})}}))
    return path


def write_texts(path: Path, count: int, seed: int) -> Path:
    path.write_text("".join(f"{text}\n" for text, _ in sentiment(count, 2, seed=seed)[0]))
    return path


def write_several(folder: Path, model: Path) -> Path:
    """Of two tasks one has further text."""
    texts = write_texts(folder / "more.txt", 300, seed=5)
    tasks = {
        # Of seeds whose splits share no text: none would be trained on where the other task is judged by it.
        name: {"data": {"grammar": "sentiment", "train": train, "validation": 40, "seed": seed}, "max_length": 32}
        for name, train, seed in (("large", 64, 0), ("small", 32, 7))
    }
    tasks["large"]["transfer"] = {"sources": {"path": str(texts)}}
    space = {"recipe": {"transfer_share": [0.0, 0.5]}}
    return write(folder, model, {"transfer_share": 0.5}, task=None, tasks=tasks, space=space)


def start(study: Path) -> tuple[StudyFile, Setup]:
    return start_from_file(str(study), study.with_name("setup.yaml"))
