"""Students read the words that their teacher's tokenizer makes, however it normalises text."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from helpers.bundles import TOKENS, write_bundle
from tokenizers import normalizers, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from objectives.limits import Limits
from runners.bundle import CONFIG, read_config
from runners.card import card
from runners.plan import ONLY, FidelitySpec, TrialPlan
from runners.predict import load_bundle
from runners.pretraining import PretrainingSpec
from runners.pretraining.corpus import corpus_key, prepare_corpus
from runners.task import TaskSpec, load_task
from runners.teacher import TeacherSpec, prepare_teacher
from runners.teacher.model import load_tokenizer, normalization_identity
from runners.teacher.prepare import teacher_key
from runners.trial import prepare, run_trial
from runners.wordpiece import encode_texts, wordpiece
from space import InputError, JointSpace, SpaceSpec
from space.normalization import Normalization
from space.vocabulary import SPECIAL_TOKENS

SWITCHES = [
    Normalization(),
    Normalization(lower_case=False),
    Normalization(strip_accents=False),
    Normalization(lower_case=False, strip_accents=True),
    Normalization(handle_chinese_chars=False),
    Normalization(clean_text=False),
]
TEXTS = ["Es war schon schön!", "NAI\u0308VE naïve", "日本 語", "a\u200bb\tc\u0000", "\u0130 ẞ ß"]
WORDS = ["schon", "schön", "es", "war", "naïve", "naive", "na", "##ï", "##i", "##ve", "日", "本", "日本", "NA", "c"]
VOCABULARY = [*SPECIAL_TOKENS, *dict.fromkeys([*TOKENS[5:], "i", "i\u0307", "ß", "ss", *WORDS])]


def _save(backend: tokenizers.Tokenizer, folder: Path) -> None:
    """As it is: a `BertTokenizer` would make its normaliser anew."""
    for path in [*folder.glob("*token*"), *folder.glob("vocab.txt")]:
        path.unlink()
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL_TOKENS, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)


def _save_with(normalization: Normalization, folder: Path) -> None:
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY), encoding="utf-8")
    backend = BertTokenizer.from_pretrained(folder).backend_tokenizer
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=normalization.clean_text,
        handle_chinese_chars=normalization.handle_chinese_chars,
        strip_accents=normalization.strip_accents,
        lowercase=normalization.lower_case,
    )
    _save(backend, folder)


@pytest.mark.parametrize("normalization", SWITCHES, ids=str)
def test_the_switches_of_a_tokenizer_are_found_and_a_student_has_them(
    normalization: Normalization, tmp_path: Path
) -> None:
    _save_with(normalization, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    tokenizer, pieces = load_tokenizer(tmp_path, "tiny")
    assert pieces.normalization == normalization
    assert (normalization_identity(tmp_path, "tiny") == {}) is normalization.ordinary
    found = encode_texts(wordpiece(pieces.vocabulary, pieces.normalization, 64), TEXTS, None)
    assert found.ids.tolist() == [index for text in TEXTS for index in tokenizer(text)["input_ids"]]
    if normalization != Normalization():
        other = encode_texts(wordpiece(pieces.vocabulary, Normalization(), 64), TEXTS, None)
        assert found.ids.tolist() != other.ids.tolist()


def test_equal_switches_are_equal_and_files_name_what_is_not_ordinary() -> None:
    assert Normalization(strip_accents=True) == Normalization()
    assert Normalization(lower_case=False, strip_accents=False) == Normalization(lower_case=False)
    assert Normalization(lower_case=False).record() == {"lower_case": False}
    assert Normalization(strip_accents=False).record() == {"lower_case": True, "strip_accents": False}
    for switches in SWITCHES:
        record = {**switches.record(), "more": 1}
        assert Normalization.pop(record) == switches
        assert record == {"more": 1}


@pytest.mark.parametrize("normalization", SWITCHES, ids=str)
def test_a_bundle_and_the_program_of_its_card_keep_the_switches(
    normalization: Normalization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path / "bundle", "texts", **normalization.record())
    described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    known = {"lower_case", "strip_accents", "handle_chinese_chars", "clean_text"}
    assert {name: value for name, value in described.items() if name in known} == normalization.record()
    assert read_config(folder).normalization == normalization
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(folder)
    text = "A FI\u0301LM was gr\u0115at"
    names: dict[str, Any] = {}
    exec(program.replace('"a text of yours"', repr(text)), names)
    expected = wordpiece(load_bundle(folder).tokens, normalization, 24).encode(text)
    assert names["encoding"].ids == expected.ids


def test_the_card_says_what_is_not_ordinary(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", "texts")
    config = read_config(folder)
    assert "(lower-cased):" in card(config, None)
    changed = config.model_copy(update={"strip_accents": False, "handle_chinese_chars": False, "clean_text": False})
    told = "(lower-cased, accents kept, Chinese characters not split from each other, control characters kept):"
    assert told in card(changed, None)


@pytest.fixture
def accented(model: Path, tmp_path: Path) -> Path:
    """A teacher that keeps accents; some words of its vocabulary differ by them only."""
    folder = Path(shutil.copytree(model, tmp_path / "accented"))
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    described["normalizer"]["strip_accents"] = False
    vocabulary = described["model"]["vocab"]
    for word, other in (("film", "fílm"), ("plot", "plöt")):
        vocabulary[other] = vocabulary.pop(next(w for w in vocabulary if w not in (*SPECIAL_TOKENS, "film", "plot")))
        assert word in vocabulary
    _save(tokenizers.Tokenizer.from_str(json.dumps(described)), folder)
    return folder


def test_a_whole_trial_reads_what_its_teacher_reads(
    accented: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    rows = [
        {"sentence": f"the {word} was good", "label": place % 2} for place, word in enumerate(["film", "fílm"] * 20)
    ]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = TaskSpec(data={"path": str(tmp_path)}, max_length=16)
    spec = TeacherSpec(model=str(accented))
    plan = TrialPlan(
        study="accents",
        task=task,
        teacher=spec,
        device={"tokens": 8, "latency": "estimated"},
        limits=Limits(),
        fidelity=FidelitySpec(epochs=1, batch_size=32),
    )
    prepared = prepare(plan)
    again = prepare_teacher(spec, load_task(task))  # from the cache
    assert again.normalization == prepared.vocabulary.normalization == Normalization(strip_accents=False)
    tokenizer, pieces = load_tokenizer(accented, "accented")
    read = prepared.encode(ONLY, len(prepared.vocabulary), prepared.tasks[ONLY].task.validation)
    expected = [index for row in rows for index in tokenizer(row["sentence"])["input_ids"]]
    tokens = prepared.vocabulary.tokens(len(prepared.vocabulary))
    assert [tokens[index] for index in read.ids] == [pieces.vocabulary[index] for index in expected]
    space = SpaceSpec(
        embedding_width=[32],
        accuracy_level=0,
        transformer={"depth": [1], "width": [32], "heads": 2, "ffn_width": [32]},
    )
    config, recipe = JointSpace(space).draw(np.random.default_rng(0))
    run_trial(plan, prepared, 0, config, recipe, 0, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").config.normalization == Normalization(strip_accents=False)


def test_cache_entries_of_ordinary_tokenizers_keep_their_names_and_others_do_not(
    accented: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries that were made when switches were not looked at must not be used, but those of most teachers must."""
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "texts.txt").write_text("the film was good\nthe f\u00edlm was good\n", encoding="utf-8")
    task = load_task(TaskSpec(data={"grammar": "sentiment", "train": 40, "validation": 20, "seed": 0}, max_length=32))
    source = [{"path": str(tmp_path / "texts.txt")}]

    def keys(folder: Path) -> tuple[str, str]:
        spec, text = TeacherSpec(model=str(folder)), PretrainingSpec(sources=source, model=str(folder), max_length=32)
        return teacher_key(spec, task, 32, folder), corpus_key(text, folder)

    ordinary, kept = keys(model), keys(accented)
    corpus = prepare_corpus(PretrainingSpec(sources=source, model=str(accented), max_length=32), "unused")
    assert (corpus.key, corpus.normalization) == (kept[1], Normalization(strip_accents=False))
    for place in ("runners.teacher.prepare", "runners.pretraining.corpus"):
        monkeypatch.setattr(f"{place}.normalization_identity", lambda *_: {})
    assert keys(model) == ordinary
    assert set(keys(accented)).isdisjoint(kept)


NFC_FIRST = normalizers.Sequence([normalizers.NFC(), normalizers.BertNormalizer()])


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("normalizer", NFC_FIRST, r"has normalizer Sequence \(NFC, BertNormalizer\), but students have BertNormalizer"),
        ("normalizer", normalizers.Lowercase(), "has normalizer Lowercase"),
        ("pre_tokenizer", pre_tokenizers.Whitespace(), "has pre_tokenizer Whitespace, but students have BertPreTok"),
    ],
)
def test_a_tokenizer_that_splits_text_otherwise_is_refused(
    model: Path, tmp_path: Path, part: str, value: Any, told: str
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "other"))
    backend = BertTokenizer.from_pretrained(model).backend_tokenizer
    setattr(backend, part, value)
    _save(backend, folder)
    task = load_task(TaskSpec(data={"grammar": "sentiment", "train": 40, "validation": 20, "seed": 0}, max_length=32))
    with pytest.raises(InputError, match=told):
        prepare_teacher(TeacherSpec(model=str(folder)), task)


def test_a_tokenizer_without_normalizer_changes_nothing(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "none"))
    described = {**json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")), "normalizer": None}
    _save(tokenizers.Tokenizer.from_str(json.dumps(described)), folder)
    tokenizer, pieces = load_tokenizer(folder, "none")
    text = "the film FILM f\u00edlm"
    student = wordpiece(pieces.vocabulary, pieces.normalization, 16)
    assert student.encode(text).ids == tokenizer(text)["input_ids"]
    assert pieces.normalization.record() == {"lower_case": False, "handle_chinese_chars": False, "clean_text": False}
