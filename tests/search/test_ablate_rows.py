"""Which setups the rows of an ablation make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_study import start, write, write_several

from runners.plan import FidelitySpec
from runners.supernet import SupernetSpec
from runners.transfer import TransferSpec
from search.ablate import ROWS, Setup
from search.ablate.rows import Facts, changed
from space.joint import SpaceSpec


@pytest.fixture
def study(tmp_path: Path, model: Path) -> Path:
    return write(tmp_path, model)


# Bytes that fall with the embedding alone, so that the row at equal bytes has to narrow it.
FACTS = Facts(lambda config: int(config.vocabulary_keep * config.embedding_width * 1000), {"large": 64, "small": 32})


def differences(one: Setup, other: Setup) -> set[str]:
    sides = [{**s.config.model_dump(), **s.recipe.model_dump(), **s.plan.model_dump()} for s in (one, other)]
    return {name for name in sides[0] if sides[0][name] != sides[1][name]}


# What gives the setup the methods of rows that it does not use.
METHODS: dict[str, dict[str, Any]] = {
    "layer-sharing": {"layer_repeats": 2},
    "encoder-updates": {"teacher_update": "encoder"},
    "pre-training": {"initialization": "pretrained"},
    "balanced-bias": {"head_bias": "balanced"},
    "clipping": {"clipping": "searched"},
    "stage-wise-training": {"schedule": "stagewise"},
    "example-weighting": {"example_weighting": "domain_expertise"},
    "meta-teacher": {"teacher_kind": "meta"},
}


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ("vocabulary-score", {"vocabulary_score"}),
        ("layer-sharing", {"layer_repeats"}),
        ("encoder-updates", {"teacher_update"}),
        ("pre-training", {"initialization"}),
        ("balanced-bias", {"head_bias"}),
        ("clipping", {"clipping"}),
        ("stage-wise-training", {"schedule"}),
        ("example-weighting", {"example_weighting"}),
        ("meta-teacher", {"teacher_kind"}),
        ("vocabulary-pruning", {"vocabulary_keep"}),
        ("vocabulary-pruning-equal-bytes", {"vocabulary_keep", "embedding_width"}),
        ("sequence-pruning", {"layers"}),
        ("cross-distillation", {"hidden_weight", "teacher_learning_rate"}),
        ("mutual-updates", {"teacher_learning_rate"}),
        ("hidden-state-loss", {"hidden_weight"}),
        ("word-state-loss", {"state_weight"}),
        (
            "distillation",
            {"label_weight", "logit_weight", "hidden_weight", "teacher_learning_rate", "state_weight"},
        ),
        ("layer-initialization", {"initialization"}),
        ("initialization", {"initialization"}),
    ],
)
def test_a_row_changes_its_method_and_nothing_else(study: Path, row: str, fields: set[str]) -> None:
    _, whole = start(study)
    if row in METHODS:
        assert ROWS[row].remove(whole, FACTS) is None
        whole = changed(whole, **METHODS[row])
    found = ROWS[row].remove(whole, FACTS)
    assert found is not None
    assert differences(whole, found[0]) == fields
    again = ROWS[row].remove(found[0], FACTS)
    assert again is None  # what is removed cannot be removed again


def test_a_meta_teacher_of_the_study_gives_way_too(study: Path) -> None:
    _, whole = start(study)
    kind = whole.plan.teacher.model_copy(update={"kind": "meta"})
    meta = replace(whole, plan=whole.plan.model_copy(update={"teacher": kind}))
    found = ROWS["meta-teacher"].remove(meta, FACTS)
    assert found is not None
    assert differences(meta, found[0]) == {"teacher_kind"}
    assert found[0].recipe.teacher_kind == "finetuned"
    assert ROWS["meta-teacher"].remove(found[0], FACTS) is None


def test_the_embedding_is_narrowed_no_more_than_needed(study: Path) -> None:
    _, whole = start(study)
    wide = changed(whole, embedding_width=96, vocabulary_keep=0.9)
    found = ROWS["vocabulary-pruning-equal-bytes"].remove(wide, FACTS)
    assert found is not None
    assert found[0].config.embedding_width == 80
    assert found[1] == "the whole vocabulary, embedding 80 wide in place of 96"
    short = ROWS["vocabulary-pruning-equal-bytes"].remove(changed(wide, vocabulary_keep=0.125), FACTS)
    assert short is not None
    assert short[1] == "the whole vocabulary, embedding 16 wide in place of 96; still 4,000 bytes more"


def test_of_a_teacher_that_learns_wholly_all_stays_as_it_is(study: Path) -> None:
    _, whole = start(study)
    for update, said in (("task_layer", "the teacher's task layer stays as it is"), ("encoder", "the teacher stays")):
        found = ROWS["mutual-updates"].remove(changed(whole, teacher_update=update), FACTS)
        assert found is not None
        assert found[1].startswith(said)


def test_without_transfer_text_there_are_as_many_steps(study: Path) -> None:
    _, whole = start(study)
    plan = whole.plan.model_copy(
        update={"transfer": TransferSpec(sources={"path": "more.txt"}), "fidelity": FidelitySpec(epochs=2)}
    )
    mixed = changed(Setup(plan, whole.config, whole.recipe), transfer_share=0.75)
    for row in ("transfer-data", "distillation"):
        found = ROWS[row].remove(mixed, FACTS)
        assert found is not None
        assert found[0].plan.fidelity.epochs == 8
        assert found[0].plan.transfer is None
        assert found[0].recipe.transfer_share == 0
    assert ROWS["transfer-data"].remove(whole, FACTS) is None


def test_text_that_the_recipe_leaves_out_is_none(study: Path, tmp_path: Path, model: Path) -> None:
    _, whole = start(study)
    copies = TransferSpec(augment={"count": 9, "methods": ["random", "masked"]})
    plan = whole.plan.model_copy(update={"transfer": copies})
    for augmentation, epochs in (("none", 1), ("learned", 1), ("masked", 2), ("all", 2)):
        setup = changed(replace(whole, plan=plan), transfer_share=0.5, augmentation=augmentation)
        found = ROWS["distillation"].remove(setup, FACTS)
        assert found is not None
        assert found[0].plan.fidelity.epochs == epochs
        assert (ROWS["transfer-data"].remove(setup, FACTS) is None) == (epochs == 1)
    _, several = start(write_several(tmp_path, model))
    sources = several.plan.tasks["large"].transfer
    tasks = {
        name: several.plan.tasks[name].model_copy(update={"transfer": transfer})
        for name, transfer in (("large", copies), ("small", sources))
    }
    setup = replace(several, plan=several.plan.model_copy(update={"tasks": tasks}))
    for augmentation, epochs in (("none", 4 / 3), ("all", 2)):  # 32 further texts, and 64 with the copies
        found = ROWS["transfer-data"].remove(changed(setup, augmentation=augmentation), FACTS)
        assert found is not None
        assert found[0].plan.fidelity.epochs == pytest.approx(epochs)


def test_weights_are_quantised_after_training_where_recipes_say_when(study: Path) -> None:
    _, whole = start(study)
    found = ROWS["quantization-aware-training"].remove(whole, FACTS)
    if "quantization" not in type(whole.recipe).model_fields:
        assert found is None
    else:
        assert found is not None
        assert found[0].recipe.quantization == "post_training"  # type: ignore[attr-defined]


def test_several_tasks_lose_their_text_and_make_more_epochs(tmp_path: Path, model: Path) -> None:
    _, whole = start(write_several(tmp_path, model))
    for row in ("transfer-data", "distillation"):
        found = ROWS[row].remove(whole, FACTS)
        assert found is not None
        assert {"tasks", "fidelity", "transfer_share"} <= differences(whole, found[0])
        assert all(task.transfer is None for task in found[0].plan.task_plans.values())
        assert found[0].plan.fidelity.epochs == pytest.approx(
            5 / 3
        )  # 64 and 64 further texts, and 32, in batches of 32


def test_what_a_supernet_lacks_is_no_row(study: Path) -> None:
    _, whole = start(study)
    narrow = SpaceSpec(vocabulary_keep=[0.5, 0.9], vocabulary_score="attention_sum")
    wide = SpaceSpec(vocabulary_keep=[0.5, 1.0], vocabulary_score=["attention_sum", "frequency"])
    names = [name for name in ROWS if name.startswith("vocabulary-")]
    assert len(names) == 3
    for initialization, space, made in (("supernet", narrow, 0), ("supernet", wide, 3), ("layers", narrow, 3)):
        plan = whole.plan.model_copy(update={"supernet": SupernetSpec(), "space": space})
        inherited = changed(replace(whole, plan=plan), initialization=initialization)
        assert sum(ROWS[name].remove(inherited, FACTS) is not None for name in names) == made
