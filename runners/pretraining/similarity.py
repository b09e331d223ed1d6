"""How near the two texts of a pair are by the teacher's embedding of each: what students of pairs must learn to tell.

An untuned teacher hardly compares the texts of a pair when it reads them together. Apart, its embeddings say how near
they are, without a label.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from runners.cache_entry import make_once, save_array
from runners.precision import training_device
from runners.pretraining.corpus import Corpus
from runners.spelling import SpecialIds, Words, spell, text_tokenizer
from runners.teacher.infer import infer
from runners.teacher.model import Teacher, find_model, load_encoder, load_tokenizer
from runners.transfer.store import read_words

_log = logging.getLogger("shoebox.runners.pretraining")
_FILE = "similarity.npy"


def prepare_similarity(corpus: Corpus, max_length: int) -> npt.NDArray[np.float32]:
    """Cosine of the teacher's mean-pooled, centred states of both texts, for each pair of a corpus: float32 [pairs].

    From the cache, or made now by a pass of the teacher over the texts of the pairs.

    Args:
        corpus: with pairs.
        max_length: longest input of the teacher in word pieces.

    Raises:
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    folder = corpus.folder.with_suffix(".similarity")

    def fill(part: Path) -> None:
        save_array(part / _FILE, _similarity(corpus, max_length))

    return make_once(folder, lambda: np.load(folder / _FILE, allow_pickle=False), fill, "similarity of pairs", _log)


def texts_of_pairs(words: Words) -> Words:
    """The texts of n pairs one by one: 2 n single texts, both of a pair next to each other."""
    assert words.first is not None
    begins = words.starts[:-1]
    starts = np.append(np.stack([begins, begins + words.first], 1).ravel(), words.starts[-1])
    return Words(words.words, words.places, starts, None)


def _similarity(corpus: Corpus, max_length: int) -> npt.NDArray[np.float32]:
    source, device = find_model(corpus.model), training_device()
    tokenizer, _ = load_tokenizer(source, corpus.model)
    special = SpecialIds(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id or 0)
    words = texts_of_pairs(read_words(corpus.folder / "paired"))
    encoded = spell(words, text_tokenizer(tokenizer), special, max_length)
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        teacher = Teacher(load_encoder(source, corpus.model), 1).to(device)
    hidden = np.zeros((len(encoded), teacher.width), np.float16)
    infer(
        teacher, encoded, device, np.zeros((len(encoded), 1), np.float32), hidden, what="Teacher reads texts of pairs"
    )
    states = hidden.astype(np.float32)
    states -= states.mean(0)
    states /= np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
    found: npt.NDArray[np.float32] = (states[::2] * states[1::2]).sum(1)
    return found
