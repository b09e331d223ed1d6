"""Transfer text in a study: what all trials share."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from objectives.limits import Limits
from runners.cache_entry import new_array
from runners.distill import distil
from runners.encodings import RecentEncodings
from runners.grammar import sentiment
from runners.plan import ONLY, FidelitySpec, TrialPlan
from runners.pretraining import PretrainingSpec
from runners.transfer import HubSource, TransferSpec
from runners.transfer.prepare import transfer_key
from runners.trial import prepare
from runners.wordpiece import encode_texts
from space.config import Recipe
from space.errors import InputError
from space.families import build_student
from space.joint import JointSpace, SpaceSpec


@pytest.fixture
def plan(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialPlan:
    torch.set_num_threads(1)
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    texts = [text for text, _ in sentiment(300, 2, seed=5)[0]]
    (tmp_path / "more.txt").write_text("\n".join(texts))
    return TrialPlan(
        study="transfer",
        task={"data": {"grammar": "sentiment", "train": 60, "validation": 30}, "max_length": 32},
        teacher={"model": str(model)},
        device={"tokens": 8, "latency": "estimated"},
        limits=Limits(),
        fidelity=FidelitySpec(),
        transfer=TransferSpec(sources={"path": str(tmp_path / "more.txt")}),
    )


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A source of the hub where nothing answers for it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens on the discard port
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return {"hub": "nobody/never-downloaded", "text": "text"}


@pytest.mark.parametrize("section", ["transfer", "pretraining"])
def test_text_that_cannot_be_had_is_said_before_a_teacher_is_made(
    plan: TrialPlan, section: str, unreachable: dict[str, str], tmp_path: Path
) -> None:
    kind = {"transfer": TransferSpec, "pretraining": PretrainingSpec}[section]
    expected = rf"out of reach .* Set {section}\.sources to a file or folder: {{path: FILE, text: COLUMN}}\.$"
    for source, message in (
        (unreachable, expected),
        ({"path": str(tmp_path / "absent.txt")}, "does not exist"),
    ):
        wrong = plan.model_copy(update={section: kind(sources=source)})
        with pytest.raises(InputError, match=message) as caught:
            prepare(wrong)
        assert "--data" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("teachers/*"))


def test_text_in_the_cache_needs_no_hub(plan: TrialPlan, unreachable: dict[str, str]) -> None:
    assert plan.transfer is not None
    taught = prepare(plan).tasks[ONLY]
    assert taught.transfer is not None
    spec = TransferSpec(sources=HubSource(**unreachable))
    entry = taught.transfer.folder.with_name(transfer_key(spec, taught.task, taught.teacher.key, 32))
    taught.transfer.folder.rename(entry)  # as if the hub had held these texts
    again = prepare(plan.model_copy(update={"transfer": spec})).tasks[ONLY].transfer
    assert again is not None
    assert again.folder == entry


def test_all_trials_share_the_lessons_of_a_vocabulary_size(plan: TrialPlan) -> None:
    prepared = prepare(plan)
    transfer = prepared.tasks[ONLY].transfer
    assert transfer is not None
    for size in (60, 100):
        encoded = prepared.encoded_transfer(ONLY, size)
        expected = encode_texts(prepared.tokenizer(ONLY, size), transfer.texts, None)
        np.testing.assert_array_equal(encoded.ids, expected.ids)
        assert len(encoded) == len(transfer)
        assert prepared.encoded_transfer(ONLY, size) is encoded
    ranked = prepared.ranked_by("frequency")
    assert ranked.encoded_transfer(ONLY, 60) is not prepared.encoded_transfer(ONLY, 60)
    assert prepared.ranked_by("attention_sum").encoded_transfer(ONLY, 60) is prepared.encoded_transfer(ONLY, 60)
    without = prepare(plan.model_copy(update={"transfer": None}))
    assert without.tasks[ONLY].transfer is None
    with pytest.raises(ValueError, match="no transfer text"):
        without.encoded_transfer(ONLY, 60)
    assert TrialPlan.model_validate_json(plan.model_dump_json()) == plan


def test_vocabularies_that_are_large_do_not_pile_up(plan: TrialPlan) -> None:
    """Half a million sentences take 100 MB in each of a space's vocabularies, and a search has no end of trials."""
    prepared = replace(prepare(plan), _encodings=RecentEncodings(most_bytes=0))
    held = [weakref.ref(prepared.encoded_transfer(ONLY, size)) for size in (60, 80, 100)]
    held.append(weakref.ref(prepared.ranked_by("frequency").encoded_transfer(ONLY, 100)))
    gc.collect()
    assert [encoded() is not None for encoded in held] == [False, False, False, True]


def test_the_vocabulary_is_the_train_splits_first(plan: TrialPlan) -> None:
    """Transfer text orders the entries that the train split lacks, and only those."""
    prepared, without = prepare(plan), prepare(plan.model_copy(update={"transfer": None}))
    teacher, transfer = prepared.tasks[ONLY].teacher, prepared.tasks[ONLY].transfer
    assert transfer is not None
    train, more = teacher.vocabulary_count, transfer.vocabulary_count
    ours, theirs = prepared.vocabulary, without.vocabulary
    characters = sum(len(token.removeprefix("##")) == 1 for token in teacher.vocabulary)
    kept = (
        5
        + characters
        + sum(
            count > 0 and len(token) > 1 and token not in ("[CLS]", "[SEP]")
            for token, count in zip(teacher.vocabulary, train, strict=True)
        )
    )
    assert ours.tokens(kept) == theirs.tokens(kept)
    gained = int(((train == 0) & (more > 0)).sum())
    assert gained > 5
    further = ours.teacher_ids(kept + gained)
    assert all(train[index] + more[index] > 0 for index in set(further[5:]) - set(ours.teacher_ids(kept)))
    assert set(further) != set(theirs.teacher_ids(kept + gained))


def test_students_learn_the_states_of_words_from_transfer_text_too(plan: TrialPlan) -> None:
    prepared = prepare(plan)
    spec = SpaceSpec(recipe={"state_weight": 1.0, "transfer_share": 0.5, "initialization": "random"})
    config, recipe = JointSpace(spec).draw(np.random.default_rng(0))
    entries = prepared.vocabulary.size(config.vocabulary_keep)
    course = prepared.course(ONLY, entries, recipe)
    own, further = course.sources
    assert own.labels is not None
    assert further.labels is None
    assert own.words is not None
    assert further.words is not None
    assert len(further.words) == len(further)
    plain = recipe.model_copy(update={"state_weight": 0.0, "transfer_share": 0.0})
    assert [found.words for found in prepared.course(ONLY, entries, plain).sources] == [None]
    student = build_student(config, prepared.shape, entries)
    tokens, device = prepared.vocabulary.tokens(entries), torch.device("cpu")
    log = distil(student, [course], recipe, plan.fidelity, tokens, 0, device)
    assert log.examples == 2 * 60 * plan.fidelity.epochs
    assert np.isfinite(log.losses).all()


def test_the_share_is_a_dimension() -> None:
    spec = SpaceSpec(recipe={"transfer_share": [0.0, 0.5, 0.75]})
    space = JointSpace(spec)
    shares = set()
    for seed in range(20):
        config, recipe = space.draw(np.random.default_rng(seed))
        params = space.to_params(config, recipe)
        assert params["recipe.transfer_share"] == recipe.transfer_share
        assert space.from_params(params) == (config, recipe)
        shares.add(recipe.transfer_share)
    assert shares == {0.0, 0.5, 0.75}
    with pytest.raises(ValueError, match=r"transfer_share cannot be 1\.0"):
        SpaceSpec(recipe={"transfer_share": [0.5, 1.0]})
    assert Recipe.model_fields["transfer_share"].default == 0.0  # bundles of before can still be read


def test_new_arrays_take_their_space(tmp_path: Path) -> None:
    array = new_array(tmp_path / "a.npy", (3000, 500), np.float16)
    assert not array.any()
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= array.nbytes  # no hole that a full disk turns into a crash
    array[2999] = 1
    array.flush()
    assert np.load(tmp_path / "a.npy").sum() == 500
