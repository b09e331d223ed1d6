"""Masked language models that resample texts."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from runners.batches import Encoded, collate, encode, shuffled_batches
from runners.optimizer import parameter_groups, warm_up_then_decay
from runners.precision import autocast, training_device
from runners.progress import ProgressLines
from runners.task import Examples
from runners.teacher.model import Teacher, find_model, load_encoder, load_tokenizer
from runners.teacher.prepare import check_length
from space.errors import InputError

_log = logging.getLogger("shoebox.runners.augmentation")
_MASKED, _AS_MASK, _AS_RANDOM = 0.15, 0.8, 0.1  # as BERT is trained
_MOST_STEPS, _PASSES, _BATCH, _RATE, _WARMUP = 200, 20, 16, 1e-4, 0.1


class MaskedModel:
    """Tells which word pieces could stand at masked places.

    Attributes:
        tokenizer: of Hugging Face, WordPiece.
        vocabulary: its pieces in id order.
    """

    def __init__(self, network: nn.Module, tokenizer: Any, vocabulary: list[str]) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self._network = network.eval()

    @torch.inference_mode()
    def logits(self, encoded: Encoded, rows: npt.NDArray[np.int64], places: list[npt.NDArray[np.int64]]) -> Tensor:
        """Logits float32 [places in all, vocabulary] of some texts at the places given for each."""
        device = next(self._network.parameters()).device
        texts = torch.from_numpy(np.repeat(np.arange(len(rows)), [len(found) for found in places])).to(device)
        wanted = torch.from_numpy(np.concatenate(places)).to(device)
        with autocast(device):
            found: Tensor = self._network(collate(encoded, rows, device), texts, wanted)
        return found.float().cpu()


class _Named(nn.Module):
    """A masked language model of `transformers`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor], texts: Tensor, places: Tensor) -> Tensor:
        found: Tensor = self.model(**batch).logits[texts, places]
        return found


class TiedHead(nn.Module):
    """An encoder with a masked language model's head, whose last product is with the encoder's own word embeddings.

    The head is that of BERT. It starts as the identity before its normalisation, with the logarithm of each piece's
    frequency as bias. Word embeddings stay as they are: of most words the text at hand says nothing.

    Args:
        teacher: the encoder; its linear head is not used.
        count: int64 [vocabulary], occurrences of each piece.
    """

    def __init__(self, teacher: Teacher, count: npt.NDArray[np.int64]) -> None:
        super().__init__()
        self.teacher = teacher
        embeddings = teacher.encoder.get_input_embeddings().weight  # type: ignore[operator]
        width = embeddings.shape[1]
        self.transform = nn.Linear(teacher.width, width)
        self.norm = nn.LayerNorm(width)
        frequency = torch.log(torch.from_numpy(count).float() + 0.1)
        self.bias = nn.Parameter(frequency - frequency.mean())
        self.embeddings = embeddings.requires_grad_(False)
        with torch.no_grad():
            self.transform.weight.copy_(torch.eye(width, teacher.width))
            self.transform.bias.zero_()

    def forward(self, batch: dict[str, Tensor], texts: Tensor, places: Tensor) -> Tensor:
        states = self.teacher.encode(batch).last_hidden_state[texts, places]
        found: Tensor = functional.linear(
            self.norm(functional.gelu(self.transform(states))), self.embeddings, self.bias
        )
        return found


def named_model(model: str, max_length: int) -> MaskedModel:
    """A masked language model by Hugging Face id or folder.

    Args:
        max_length: longest input in word pieces.

    Raises:
        InputError: it cannot be had, is not WordPiece, has no head for masked words, or reads no input of that length.
    """
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging as transformers_logging

    where = "transfer.augment.masked_model"
    try:
        folder = find_model(model)
        tokenizer, pieces = load_tokenizer(folder, model)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        network, report = AutoModelForMaskedLM.from_pretrained(
            str(folder),
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise InputError(f"{where}: {model} could not be loaded ({reason}).") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if missing := [name for name in report["missing_keys"] if not name.endswith(("decoder.weight", "decoder.bias"))]:
        raise InputError(
            f"{where}: {model} is no masked language model: it lacks {sorted(missing)[0]}.",
            "Name one that was trained with a head for masked words, or leave masked_model out.",
        )
    check_length(network.config, max_length, model, f"{where}: ", "masked model")
    return MaskedModel(_Named(network).to(training_device()), tokenizer, pieces.vocabulary)


def tuned_model(folder: Path, texts: Examples, max_length: int, seed: int) -> MaskedModel:
    """A pretrained encoder that learns to fill in masked words of the text at hand; deterministic.

    It makes at most 20 passes, and at most 200 steps of 16 texts: little text would be learned by heart.

    Args:
        folder: of the encoder, which need have no head for masked words.
        texts: to learn from.
        max_length: longest input in word pieces.
        seed: of masks and order.
    """
    tokenizer, pieces = load_tokenizer(folder, str(folder))
    encoded = encode(tokenizer, texts, max_length)
    device = training_device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = Teacher(load_encoder(folder, str(folder)), 1)
        config: Any = teacher.encoder.config
        count = np.bincount(encoded.ids, minlength=int(config.vocab_size)).astype(np.int64)
        network = TiedHead(teacher, count).to(device)
        loss = _train(network, encoded, tokenizer, seed, device)
    _log.info("The masked model is ready: loss %.3f on masked words", loss)
    return MaskedModel(network, tokenizer, pieces.vocabulary)


def _train(network: TiedHead, encoded: Encoded, tokenizer: Any, seed: int, device: torch.device) -> float:
    generator = np.random.default_rng([seed, 17])
    steps = min(_MOST_STEPS, _PASSES * math.ceil(len(encoded) / _BATCH))
    trained = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups(trained, 0.01), lr=_RATE)
    special = torch.tensor(sorted(tokenizer.all_special_ids), device=device)
    progress = ProgressLines(_log, "Tuning a masked language model", steps)
    network.train()
    step, running = 0, 0.0
    while step < steps:
        for rows in shuffled_batches(encoded.lengths, _BATCH, generator):
            batch = collate(encoded, rows, device)
            ids = batch["input_ids"]
            draws = torch.from_numpy(generator.random(ids.shape)).to(device)
            chosen = (draws < _MASKED) & ~torch.isin(ids, special) & (batch["attention_mask"] > 0)
            if chosen.any():
                kind = torch.from_numpy(generator.random(ids.shape)).to(device)
                other = torch.from_numpy(generator.integers(len(network.bias), size=tuple(ids.shape))).to(device)
                shown = torch.where(kind < _AS_MASK, tokenizer.mask_token_id, ids)
                shown = torch.where(kind >= 1 - _AS_RANDOM, other, shown)
                texts, places = chosen.nonzero(as_tuple=True)
                with autocast(device):
                    logits = network({**batch, "input_ids": torch.where(chosen, shown, ids)}, texts, places)
                loss = functional.cross_entropy(logits.float(), ids[texts, places])
                for group in optimizer.param_groups:
                    group["lr"] = _RATE * warm_up_then_decay(step, steps, _WARMUP)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                running += (float(loss.detach()) - running) * max(0.05, 1 / (step + 1))
            step += 1
            progress.update(step)
            if step == steps:
                break
    return running
