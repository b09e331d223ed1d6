"""The supernet of a study: from the cache, or trained now; and students that inherit from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from runners.batches import Encoded
from runners.cache_entry import make_once
from runners.distill import DivergedError
from runners.initialization import start_from_embeddings, start_from_layers
from runners.precision import training_device
from runners.progress import duration
from runners.supernet.sampling import ElasticSpace
from runners.supernet.spec import SupernetSpec
from runners.supernet.train import SupernetTraining, with_rows
from runners.teacher.origin import Origin
from runners.teacher.statistics import LayerStatistics, bert_layers
from runners.tensors import save_tensors
from space.errors import InputError
from space.families.base import Student
from space.families.transformer.config import TransformerConfig
from space.families.transformer.elastic import ElasticTransformer
from space.paths import cache
from space.shape import TaskShape
from space.vocabulary import Vocabulary

if TYPE_CHECKING:
    from runners.prepared import Prepared, TaughtTask

_log = logging.getLogger("shoebox.runners.supernet")
_FORMAT = 2  # raise it when cache entries of older code must not be used
_TENSORS, _RECORD = "supernet.safetensors", "supernet.json"
_PROJECTION = "teacher."  # before the names of the projection onto the teacher's hidden state
_SAVED_EVERY = 200  # steps


@dataclass(frozen=True, eq=False)
class Supernet:
    """A trained supernet.

    Attributes:
        key: name of its cache entry: a hash of the space, the section, the teacher and the data.
        module: its weights; the head is the teacher's task layer behind `projection`.
        projection: weight [teacher width, width] and bias [teacher width], from pooled states to the teacher's.
        entries: the teacher's ids of the rows of its word embeddings, int64 [rows].
        record: how it was made: `loss` of the largest configuration over tenths of the steps, `steps`, `seconds` of
            wall time, `process_seconds` of all threads.
    """

    key: str
    module: ElasticTransformer
    projection: tuple[Tensor, Tensor]
    entries: npt.NDArray[np.int64]
    record: dict[str, Any]

    def weights(self, config: TransformerConfig, vocabulary: Vocabulary) -> dict[str, Tensor]:
        """All weights of a configuration, its head's among them, by the names of its module.

        Args:
            config: of the space that the supernet was trained for.
            vocabulary: of the task, ranked by the configuration's score.

        Raises:
            InputError: it is larger than what the supernet was trained for.
        """
        wanted = vocabulary.teacher_ids(vocabulary.size(config.vocabulary_keep))
        problem = self.module.extent.lacks(config)
        if problem is None and not np.isin(wanted, self.entries).all():
            problem = f"vocabulary of these {len(wanted):,} word pieces"
        if problem:
            raise InputError(
                f"The supernet has no {problem}: it was trained for the sizes of the study's space.",
                "Widen the space, or start from another recipe.initialization.",
            )
        rows = torch.from_numpy(_places(self.entries, vocabulary)[wanted])
        with torch.no_grad():
            return self.module.cut(config, rows)

    def projection_of(self, width: int) -> tuple[Tensor, Tensor]:
        """Weight [teacher width, width] and bias of the projection for students of a width."""
        return self.projection[0][:, :width], self.projection[1]


def start_from_supernet(student: Student, supernet: Supernet, config: Any, vocabulary: Vocabulary) -> None:
    """Everything, the head as well, from a supernet; arguments as of `Supernet.weights`."""
    if not isinstance(config, TransformerConfig):
        raise InputError(f"Students of {config.family} cannot start from a supernet.", "Only transformers can.")
    student.load_state_dict(supernet.weights(config, vocabulary))


def prepare_supernet(spec: SupernetSpec, space_spec: Any, prepared: Prepared) -> Supernet:
    """The supernet of a study's task and space: from the cache, or trained now.

    Processes that ask for the same one at the same time wait for the one that trains it. A training that was killed
    goes on where it was last saved.

    Args:
        spec: of the study.
        space_spec: section `space:` of the study file.
        prepared: the task and its teacher's answers.

    Raises:
        InputError: there are several tasks or one that labels words, or training diverged.
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    if len(prepared.tasks) > 1 or prepared.shape.per_token:
        raise InputError("A supernet is for one task that judges whole texts.", "Leave the section supernet out.")
    space = ElasticSpace(space_spec)
    key = supernet_key(spec, space_spec, prepared, space)
    folder = cache() / "supernets" / key
    saved = folder.with_suffix(".checkpoint")

    def read() -> Supernet:
        try:
            tensors = load_file(str(folder / _TENSORS))
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        return _opened(key, space, prepared.shape, tensors, json.loads((folder / _RECORD).read_text(encoding="utf-8")))

    def fill(part: Path) -> None:
        _train(spec, space, prepared, part, saved)

    found = make_once(folder, read, fill, "supernet", _log)
    with contextlib.suppress(OSError):
        saved.unlink()  # only now: who is killed before the entry has its name loses no training
    return found


def supernet_key(spec: SupernetSpec, space_spec: Any, prepared: Prepared, space: ElasticSpace) -> str:
    """Name of the cache entry: what it depends on, hashed."""
    (taught,) = prepared.tasks.values()
    names = {"vocabulary_keep", "vocabulary_score", "embedding_width", "embedding_bits", "block_size", "transformer"}
    orders = hashlib.sha256()
    for score in space.scores:
        orders.update(_kept(prepared.vocabulary, score, space.keeps[-1]).tobytes())
    parts = {
        "format": _FORMAT,
        "spec": spec.model_dump(mode="json"),
        "space": space_spec.model_dump(mode="json", include=names),
        "teacher": [taught.teacher.key, taught.teacher_length],
        "data": taught.task.fingerprint,
        "shape": prepared.shape.model_dump(mode="json"),
        "vocabulary": orders.hexdigest(),
    }
    if taught.task.target is not None:
        parts["target"] = taught.task.target.domain  # which rows are learned; the data says which domain each is of
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _opened(
    key: str, space: ElasticSpace, shape: TaskShape, tensors: dict[str, Tensor], record: dict[str, Any]
) -> Supernet:
    """What the files of a cache entry hold. ValueError says that they are of something else."""
    try:
        entries = tensors.pop("entries").numpy()
        projection = tensors.pop(f"{_PROJECTION}weight"), tensors.pop(f"{_PROJECTION}bias")
        with torch.device("meta"):
            module = ElasticTransformer(space.extent, shape, len(entries))
        module.load_state_dict(tensors, assign=True)
    except (KeyError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    return Supernet(key, module.eval(), projection, entries, record)


def _train(spec: SupernetSpec, space: ElasticSpace, prepared: Prepared, folder: Path, saved: Path) -> None:
    begin, used = time.monotonic(), time.process_time()
    (taught,) = prepared.tasks.values()
    device = training_device()
    entries = _Entries.of(space, prepared.vocabulary)
    ids = entries.ids
    statistics = taught.statistics()  # before the seed is set: making them the first time draws random numbers
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed(spec.seed)
        supernet = ElasticTransformer(space.extent, prepared.shape, len(ids))
        _start(supernet, taught, statistics, entries)
        training = SupernetTraining(
            supernet,
            space,
            spec,
            taught.teacher,
            np.asarray(taught.task.train.labels),
            taught.task.learned_rows,
            _spellings(space, ids, prepared),
            prepared.shape,
            taught.task.regression,
            device,
        )
    extent = space.extent
    shown = f"{extent.depth} x {extent.width}, ffn {extent.ffn_width}, embedding {extent.embedding_width}"
    _log.info("Training a supernet of %s, %d steps; once, then cached", shown, training.steps)
    if saved.exists():
        try:
            training.restore(saved)
        except InputError as error:
            _log.warning("%s The supernet's training starts anew", error)
    try:
        while training.done < training.steps:
            training.run(training.done + _SAVED_EVERY)
            training.save(saved)
        losses = training.run()
    except DivergedError as error:
        raise InputError(f"The supernet diverged: {error}.", "Lower supernet.learning_rate.") from error
    projection = training.objective.projection.cpu()
    tensors = {name: value.detach().cpu().clone() for name, value in supernet.state_dict().items()}
    tensors["entries"] = torch.from_numpy(ids)
    tensors[f"{_PROJECTION}weight"] = projection.weight.detach().clone()
    tensors[f"{_PROJECTION}bias"] = projection.bias.detach().clone()
    save_tensors(tensors, folder / _TENSORS)
    seconds = round(time.monotonic() - begin, 2)
    record = {
        "steps": training.steps,
        "loss": [float(part.mean()) for part in np.array_split(losses, min(10, len(losses)))],
        "seconds": seconds,
        "process_seconds": round(time.process_time() - used, 2),
    }
    (folder / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    _log.info("Supernet ready after %s", duration(seconds))


def _start(supernet: ElasticTransformer, taught: TaughtTask, statistics: LayerStatistics, entries: _Entries) -> None:
    """From the teacher's embeddings, and from its layers where they are laid out like BERT's."""
    origin = Origin.of([taught.teacher])
    start_from_embeddings(supernet, origin, *entries)
    encoder = origin.encoder()
    if bert_layers(encoder) is not None:
        start_from_layers(supernet, origin, encoder, statistics, *entries)
        supernet.sort_heads()


def _spellings(
    space: ElasticSpace, entries: npt.NDArray[np.int64], prepared: Prepared
) -> dict[tuple[str, float], Encoded]:
    """The train split in every vocabulary of the space, with the ids of the supernet's rows."""
    (name,) = prepared.tasks
    found: dict[tuple[str, float], Encoded] = {}
    for score in space.scores:
        ranked = prepared.ranked_by(score)
        places = _places(entries, ranked.vocabulary)
        for keep in space.keeps:
            size = ranked.vocabulary.size(keep)
            ids = ranked.vocabulary.teacher_ids(size)
            found[score, keep] = with_rows(ranked.encoded_train(name, size), places[ids])
    return found


class _Entries(NamedTuple):
    """All entries that any configuration keeps: a vocabulary that begins with them, and which share of it they are."""

    vocabulary: Vocabulary
    share: float

    @classmethod
    def of(cls, space: ElasticSpace, vocabulary: Vocabulary) -> _Entries:
        score = np.zeros(len(vocabulary))
        for name in space.scores:
            score[_kept(vocabulary, name, space.keeps[-1])] = 1
        ranked = Vocabulary(vocabulary.teacher_tokens, score, score, vocabulary.normalization)
        return cls(ranked, float(score.mean()))

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """The teacher's ids, in the order of the supernet's rows."""
        return self.vocabulary.teacher_ids(self.vocabulary.size(self.share))


def _kept(vocabulary: Vocabulary, score: Any, keep: float) -> npt.NDArray[np.int64]:
    ranked = vocabulary.ranked_by(score)
    return ranked.teacher_ids(ranked.size(keep))


def _places(entries: npt.NDArray[np.int64], vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """For each id of the teacher its row among the entries, or -1."""
    found = np.full(len(vocabulary), -1, np.int64)
    found[entries] = np.arange(len(entries))
    return found
