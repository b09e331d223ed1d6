"""A teacher's hidden states of words, compressed so that they can be kept."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runners.batches import Encoded, collate, encode, sorted_batches
from runners.cache_entry import make_once, new_array, save_array
from runners.distill.words import NO_WORD, count_words, opens_word, word_rows
from runners.lessons import WordStates
from runners.precision import autocast, training_device
from runners.progress import ProgressLines
from runners.task import Examples
from runners.teacher.model import Teacher, find_model, load_tokenizer
from runners.teacher.prepare import load_teacher
from runners.teacher.statistics import LayerStatistics
from runners.teacher.store import TeacherOutputs

_log = logging.getLogger("shoebox.runners.teacher")
# Of three layers 64 principal components in one byte each: 192 bytes a word, of the 4,600 that all states of a teacher
# with 6 layers of 384 take in float16. They hold 65 to 77 % of the variance on SST-2.
# All six, twice the bytes, teach students of two and four layers no more (STS-B, two seeds each).
LAYERS = 3
COMPONENTS = 64
_DEVIATIONS = 4.0  # what lies further out than so many standard deviations is clipped
_MAX_TOKENS = 4096


@dataclass(frozen=True, eq=False)
class WordBasis:
    """How states are compressed: by principal components of each layer, one byte for each.

    Attributes:
        layers: of the teacher, counted from 1.
        depth: number of the teacher's layers.
        mean: float32 [layers, width].
        components: float32 [layers, width, components], orthonormal, by falling variance.
        scale: float32 [layers, components], the unit of a byte.
    """

    layers: tuple[int, ...]
    depth: int
    mean: Tensor
    components: Tensor
    scale: Tensor


def word_basis(statistics: LayerStatistics) -> WordBasis:
    """The basis that follows from a teacher's statistics: evenly spaced layers, the last among them."""
    depth = statistics.depth
    count = min(LAYERS, depth)
    layers = tuple(round((index + 1) * depth / count) for index in range(count))
    chosen = torch.tensor(layers)
    variances, vectors = torch.linalg.eigh(statistics.state_covariance[chosen].double())  # by rising variance
    kept = min(COMPONENTS, vectors.shape[-1])
    deviation = variances.flip(-1)[:, :kept].clamp(min=1e-12).sqrt()
    return WordBasis(
        layers=layers,
        depth=depth,
        mean=statistics.state_mean[chosen],
        components=vectors.flip(-1)[..., :kept].float(),
        scale=(_DEVIATIONS * deviation / 127).float(),
    )


def prepare_words(
    entry: Path, examples: Examples, outputs: TeacherOutputs, basis: WordBasis, max_length: int
) -> WordStates:
    """The teacher's states of the words of texts: from the cache, or made now by one pass of the teacher.

    Args:
        entry: the cache entry that holds the teacher's other answers to these texts; the states lie beside it.
        examples: the texts.
        outputs: of the teacher.
        basis: from its statistics.
        max_length: longest input of the teacher in word pieces.

    Raises:
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    folder = entry.with_suffix(".words")

    def fill(part: Path) -> None:
        tokenizer, pieces = load_tokenizer(find_model(outputs.model), outputs.model)
        write_word_states(
            part, load_teacher(outputs), encode(tokenizer, examples, max_length), pieces.vocabulary, basis
        )

    def read() -> WordStates:
        found = read_word_states(folder)
        if found.layers != basis.layers or found.scale.shape != basis.scale.shape:
            raise ValueError("it holds other layers or components")
        return found

    return make_once(folder, read, fill, "teacher's states of words", _log)


def write_word_states(
    folder: Path,
    teacher: Teacher,
    encoded: Encoded,
    tokens: list[str],
    basis: WordBasis,
    pooled: npt.NDArray[np.float16] | None = None,
) -> None:
    """Write the teacher's states of the words of texts into the folder of a cache entry; see `infer_words`.

    Raises:
        OSError: the disk is full.
    """
    total, first = count_words(encoded, opens_word(tokens))
    starts = np.concatenate(([0], np.cumsum(total)))
    values = new_array(folder / "values.npy", (int(starts[-1]), *basis.scale.shape), np.int8)
    infer_words(teacher, encoded, tokens, basis, starts, first, values, pooled)
    values.flush()
    for name, array in (("starts", starts), ("first", first), ("scale", basis.scale.numpy())):
        save_array(folder / f"{name}.npy", array)
    (folder / "words.json").write_text(json.dumps({"layers": basis.layers, "depth": basis.depth}), encoding="utf-8")


def read_word_states(folder: Path) -> WordStates:
    """Map what `write_word_states` wrote.

    Raises:
        OSError, ValueError: a file is missing or damaged.
    """
    record = json.loads((folder / "words.json").read_text(encoding="utf-8"))
    arrays: dict[str, Any] = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("values", "scale", "starts", "first")
    }
    return WordStates(**arrays, layers=tuple(record["layers"]), depth=record["depth"])


@torch.inference_mode()
def infer_words(
    teacher: Teacher,
    encoded: Encoded,
    tokens: list[str],
    basis: WordBasis,
    starts: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    values: npt.NDArray[np.int8],
    pooled: npt.NDArray[np.float16] | None = None,
) -> None:
    """Fill `values` [words, layers, components]: the mean state of each word's pieces, compressed.

    Args:
        encoded: texts in the teacher's word pieces.
        tokens: the teacher's vocabulary.
        basis: how to compress.
        starts, first: where the words of each text begin, and how many lie in the first of a pair (`count_words`).
        pooled: [texts, width], filled with the mean-pooled last hidden states where given.
    """
    device = training_device()
    teacher.to(device).eval()
    words = word_rows(encoded, tokens, starts, first)
    mean, components, scale = (part.to(device) for part in (basis.mean, basis.components, basis.scale))
    progress = ProgressLines(_log, "Teacher reads words", float(encoded.lengths.sum()))
    done = 0
    for rows in sorted_batches(encoded.lengths, _MAX_TOKENS, _MAX_TOKENS * 512):
        batch = collate(encoded, rows, device)
        with autocast(device):
            hidden = teacher.encode(batch, hidden_states=True).hidden_states
        if pooled is not None:
            pooled[rows] = teacher.pool(hidden[-1], batch["attention_mask"])[1].cpu().numpy().astype(np.float16)
        # In the order of the batch: text by text, as the mask lists them.
        flat = torch.from_numpy(np.concatenate([words[encoded.starts[row] : encoded.starts[row + 1]] for row in rows]))
        real = batch["attention_mask"].bool()
        known = flat != NO_WORD
        found, inverse = torch.unique(flat[known], return_inverse=True)
        inverse, known = inverse.to(device), known.to(device)
        pieces = torch.bincount(inverse, minlength=len(found))[:, None]
        for place, layer in enumerate(basis.layers):
            states = hidden[layer].float()[real][known]
            means = states.new_zeros(len(found), states.shape[1]).index_add_(0, inverse, states) / pieces
            compressed = (means - mean[place]) @ components[place] / scale[place]
            values[found.numpy(), place] = compressed.round().clamp(-127, 127).to(torch.int8).cpu().numpy()
        done += int(encoded.lengths[rows].sum())
        progress.update(done)
