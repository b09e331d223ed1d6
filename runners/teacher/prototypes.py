"""How much each text of a domain has in common with all domains, and how far a teacher is to be followed on it.

Meta-KD (Pan et al. 2021, arXiv 2012.01266). What it leaves open, and how it is here:

- Embeddings are the mean-pooled last hidden states of the teacher's model before any fine-tuning, which tells topics
  apart rather than labels, and needs no teacher to make a teacher.
- A cosine can be negative, and so can a weight: a text that is like no domain. As a weight of a loss it counts as 0.
- Weights of losses are brought to mean 1. Adam hardly minds their scale, but the clipping of gradients does, and text
  without a domain has weight 1 beside them.
- The paper weighs a first stage on hidden states, attention and a domain representation, and leaves a second one on
  logits as it is. Here a student learns all at once, or in stages of its own: all that it takes over from its teacher
  (pooled state, states and relations of words, logits) is weighed, and the loss on labels is not. The pooled state
  stands in for the domain representation.
- The teacher's probability of a label is that on its own train split, where it is often near 1: most of what tells
  texts apart is then the prototype weight and the texts that the teacher has not learned.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runners.batches import encode
from runners.cache_entry import make_once, save_array
from runners.precision import training_device
from runners.task import Task
from runners.teacher.infer import infer
from runners.teacher.model import Teacher, find_model, load_encoder, load_tokenizer, model_identity
from space.errors import InputError
from space.paths import cache

_log = logging.getLogger("shoebox.runners.teacher")
_FORMAT = 1  # raise it when cache entries of older code must not be used
_FILE = "weights.npy"


def prototype_weights(embeddings: npt.NDArray[Any], domains: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """`w_i = 1/2 [cos(e_i, c_d) + cos(e_i, mean of c_k, k != d)]`, float64 [n]: high for a text that is typical of its
    own domain d and like the others too.

    Args:
        embeddings: floats [n, width].
        domains: int64 [n], from 0 on; each number up to the largest has a text, and there are two at least.
    """
    states = embeddings.astype(np.float64)
    count = int(domains.max()) + 1
    centroids = np.stack([states[domains == domain].mean(0) for domain in range(count)])
    others = (centroids.sum(0) - centroids) / (count - 1)
    return (_cosine(states, centroids[domains]) + _cosine(states, others[domains])) / 2


def domain_expertise(
    weights: npt.NDArray[Any], logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """`lambda_i = (1 + w_i) / (exp((p_T(y_i) - 1)^2) + 1)`, float64 [n]: how far a student is to follow a teacher.

    Args:
        weights: w_i of `prototype_weights` [n].
        logits: of the teacher [n, classes].
        labels: [n].
    """
    values = logits.astype(np.float64)
    exponent = np.exp(values - values.max(1, keepdims=True))
    right = exponent[np.arange(len(labels)), labels] / exponent.sum(1)
    found: npt.NDArray[np.float64] = (1 + weights) / (np.exp((right - 1) ** 2) + 1)
    return found


def with_mean_one(weights: npt.NDArray[Any], rows: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float32]:
    """Weights of losses with mean 1 over `rows`, by default over all; negative ones count as 0, float32 [n].

    Equal weights become 1; so do those of which none is above 0.
    """
    above = np.maximum(weights.astype(np.float64), 0)
    mean = float((above if rows is None else above[rows]).mean())
    return np.ones(len(above), np.float32) if mean <= 0 else (above / mean).astype(np.float32)


def prepare_prototypes(model: str, task: Task, max_length: int) -> npt.NDArray[np.float32]:
    """`prototype_weights` of the train split: from the cache, or made now by a pass of the model; memory-mapped.

    Args:
        model: Hugging Face id or folder of the encoder before fine-tuning.
        task: with domains.
        max_length: longest input in word pieces.

    Raises:
        InputError: the train split has one domain only, or the model cannot be loaded.
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    check_domains(task)
    source = find_model(model)
    folder = cache() / "prototypes" / _key(source, task, max_length)

    def fill(part: Path) -> None:
        save_array(part / _FILE, _weights(model, source, task, max_length))

    def read() -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = np.load(folder / _FILE, mmap_mode="r", allow_pickle=False)
        if len(found) != len(task.train):
            raise ValueError(f"{len(found)} weights of {len(task.train)} texts")
        return found

    return make_once(folder, read, fill, "prototype weights", _log)


def check_domains(task: Task) -> None:
    """Refuse a task whose texts cannot be compared with those of another domain.

    Raises:
        InputError: the train split has one domain only.
    """
    if task.domains is None:
        raise ValueError("the task has no domains")
    if len(task.domains) < 2:
        raise InputError(
            f"The train split has one domain only, {task.domains[0]!r}: Meta-KD compares a domain with others.",
            "Widen task.where, or leave out teacher.kind: meta and space.recipe.example_weighting.",
        )


def _weights(model: str, source: Path, task: Task, max_length: int) -> npt.NDArray[np.float32]:
    tokenizer, _ = load_tokenizer(source, model)
    device = training_device()
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        encoder = Teacher(load_encoder(source, model), 1).to(device)
    encoded = encode(tokenizer, task.train, max_length)
    hidden = np.zeros((len(encoded), encoder.width), np.float16)
    logits = np.zeros((len(encoded), 1), np.float32)
    infer(encoder, encoded, device, logits, hidden, what="Teacher's model reads the domains")
    assert task.train.domains is not None
    return prototype_weights(hidden, task.train.domains).astype(np.float32)


def _key(source: Path, task: Task, max_length: int) -> str:
    import transformers

    parts = {
        "format": _FORMAT,
        "model": model_identity(source),
        "data": task.fingerprint,  # with the domains
        "max_length": max_length,
        "versions": [".".join(module.__version__.split(".")[:2]) for module in (torch, transformers)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _cosine(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    found: npt.NDArray[np.float64] = (left * right).sum(1) / np.maximum(lengths, 1e-12)
    return found
