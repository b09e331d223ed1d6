from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from runners.emulator import Installation, install
from runners.grammar import sentiment
from space.vocabulary import SPECIAL_TOKENS


@pytest.fixture(scope="session")
def emulator() -> Installation:
    """The ARM emulator in the user's cache folder, set up as a user's first search would."""
    return install(lambda line: None)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with the words of the grammar, saved the way Hugging Face saves models."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    rows, _ = sentiment(3000, 2, seed=0)
    words = [*SPECIAL_TOKENS, *sorted({word for text, _ in rows for word in text.split()})]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizer.from_pretrained(folder, do_lower_case=True).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)
    return folder
