"""One student trained at all sizes of a space, and students that inherit from it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from objectives.limits import Limits
from runners import cache_entry
from runners.evaluate import open_session, run_model, run_student
from runners.plan import FidelitySpec, TrialPlan
from runners.prepared import Prepared
from runners.supernet import SupernetSpec
from runners.supernet import prepare as prepare_module
from runners.supernet.prepare import Supernet, prepare_supernet, start_from_supernet
from runners.supernet.sampling import ElasticSpace
from runners.supernet.train import SupernetTraining
from runners.trial import prepare, run_trial
from space import InputError, JointSpace, SpaceSpec, TaskShape
from space.config import Recipe
from space.families import build_student, export_model
from space.families.transformer.config import Layer, TransformerConfig
from space.families.transformer.elastic import ElasticTransformer, Extent, chosen_layers
from space.families.transformer.module import TransformerStudent

SPACE = SpaceSpec(
    vocabulary_keep={"low": 0.6, "high": 0.9},
    vocabulary_score=["attention_sum", "attention_mean"],
    embedding_width=[16, 32],
    embedding_bits=[2, 4, 8],
    block_size=[16, 32],
    transformer={
        "depth": {"low": 1, "high": 3},
        "width": [32, 64],
        "heads": [2, 4],
        "activation": ["gelu", "relu"],
        "layer_repeats": [1, 2],
        "ffn_width": [32, 48],
        "token_keep": [1.0, 0.5],
        "attention_bits": [2, 4, 8],
        "ffn_bits": [2, 4, 8],
    },
    recipe={"initialization": "supernet"},
)
SPEC = SupernetSpec(epochs=1.5, batch_size=32)
EXTENT = Extent(depth=3, width=64, heads=4, head_size=32, ffn_width=48, embedding_width=32)


def config(width: int, heads: int, depth: int = 3, ffn: int = 48, embedding: int = 32, **more) -> TransformerConfig:
    return TransformerConfig(
        vocabulary_keep=0.9,
        embedding_width=embedding,
        embedding_bits=8,
        block_size=32,
        accuracy_level=0,
        width=width,
        heads=heads,
        activation="gelu",
        layers=(Layer(ffn_width=ffn, token_keep=1.0, attention_bits=8, ffn_bits=8),) * depth,
        **more,
    )


@pytest.fixture(scope="module")
def plan(model: Path) -> TrialPlan:
    return TrialPlan(
        study="supernet",
        task={"data": {"grammar": "sentiment", "train": 160, "validation": 40}, "max_length": 32},
        teacher={"model": str(model), "learning_rate": 1e-3},
        device={"tokens": 8, "latency": "estimated"},
        limits=Limits(),
        fidelity=FidelitySpec(epochs=1),
        supernet=SPEC,
        space=SPACE,
    )


@pytest.fixture(scope="module")
def prepared(plan: TrialPlan, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOEBOX_CACHE", str(tmp_path_factory.mktemp("cache")))
        torch.set_num_threads(1)
        yield prepare(plan)


@pytest.fixture
def supernet(prepared: Prepared) -> Supernet:
    assert prepared.supernet is not None
    return prepared.supernet


def elastic(extent: Extent = EXTENT) -> ElasticTransformer:
    torch.manual_seed(0)
    return ElasticTransformer(extent, TaskShape(outputs=2, segments=2, max_length=16), 40)


def test_a_cut_has_the_leading_channels_heads_and_neurons_of_chosen_layers() -> None:
    whole = elastic()
    found = whole.cut(config(32, 2, depth=2, ffn=32, embedding=16))
    layer = whole.layers[1]  # of three layers two take the second and the third
    assert chosen_layers(2, 3) == [1, 2]
    assert chosen_layers(1, 4) == [3]
    assert chosen_layers(4, 4) == [0, 1, 2, 3]
    assert torch.equal(found["word.weight"], whole.word.weight[:, :16])
    assert torch.equal(found["segment.weight"], whole.segment.weight[:, :16])
    assert torch.equal(found["projection.weight"], whole.projection.weight[:32, :16])
    assert torch.equal(found["layers.0.up.weight"], layer.up.weight[:32, :32])
    assert torch.equal(found["layers.0.down.weight"], layer.down.weight[:32, :32])
    assert torch.equal(found["layers.1.norm2.weight"], whole.layers[2].norm2.weight[:32])
    assert torch.equal(found["head.weight"], whole.head.weight[:, :32])
    # Query, key and value, each of 4 heads of 32 channels, of which two heads of 16 are taken.
    values = layer.qkv.weight[2 * 128 :]
    assert torch.equal(found["layers.0.qkv.weight"][64:80], values[:16, :32])
    assert torch.equal(found["layers.0.qkv.weight"][80:96], values[32:48, :32])
    assert torch.equal(found["layers.0.out.weight"][:, 16:], layer.out.weight[:32, 32:48])
    torch.testing.assert_close(found["layers.0.qkv.weight"][:16], layer.qkv.weight[:16, :32] * 0.5**0.25)
    with pytest.raises(ValueError, match="no width 128, above 64"):
        whole.cut(config(128, 4))


def test_the_whole_cut_is_the_supernet() -> None:
    whole = elastic(EXTENT._replace(head_size=16))
    found, own = whole.cut(config(64, 4)), whole.state_dict()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], value) for name, value in own.items())


def test_sorting_heads_turns_channels_and_changes_no_answer() -> None:
    whole = elastic(EXTENT._replace(head_size=16))
    for layer in whole.layers:
        torch.nn.init.normal_(layer.qkv.bias)
    student = TransformerStudent(config(64, 4), TaskShape(outputs=2, segments=2, max_length=16), 40)
    student.set_rounding(False)
    ids = torch.randint(5, 40, (3, 9))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}

    def answers() -> torch.Tensor:
        student.load_state_dict(whole.cut(config(64, 4)))
        return student(**inputs)

    before = answers()
    whole.sort_heads()
    torch.testing.assert_close(answers(), before, atol=1e-4, rtol=1e-4)
    values = whole.layers[0].qkv.weight[128:144].square().sum(1)  # of the first head, by falling power now
    assert (values.diff() <= 1e-6).all()


def test_every_configuration_of_the_space_can_inherit(prepared: Prepared, supernet: Supernet) -> None:
    space, generator = JointSpace(SPACE), np.random.default_rng(0)
    text = torch.tensor([[2, 9, 12, 3]])
    for _ in range(50):
        drawn, _ = space.draw(generator)
        own = prepared.ranked_by(drawn.vocabulary_score).vocabulary
        student = build_student(drawn, prepared.shape, own.size(drawn.vocabulary_keep))
        start_from_supernet(student, supernet, drawn, own)
        assert torch.isfinite(student(text, torch.ones_like(text))).all()
        # Each entry has the row of that word piece, in whichever order it is kept.
        ids = own.teacher_ids(own.size(drawn.vocabulary_keep))
        row = int(np.flatnonzero(supernet.entries == ids[-1])[0])
        assert torch.equal(student.word.weight[-1], supernet.module.word.weight[row, : drawn.embedding_width])
    large = drawn.model_copy(update={"width": 128, "heads": 2})
    with pytest.raises(InputError, match="The supernet has no width 128, above 64"):
        supernet.weights(large, own)
    with pytest.raises(InputError, match=r"The supernet has no vocabulary of these [\d,]+ word pieces: "):
        supernet.weights(drawn.model_copy(update={"vocabulary_keep": 1.0}), own)


def test_an_inherited_student_answers_alike_in_its_file(prepared: Prepared, supernet: Supernet, tmp_path: Path) -> None:
    (taught,) = prepared.tasks.values()
    for seed in range(3):
        drawn, _ = JointSpace(SPACE).draw(np.random.default_rng(seed))
        drawn = drawn.model_copy(update={"accuracy_level": 0})  # torch does not round activations
        own = prepared.ranked_by(drawn.vocabulary_score)
        size = own.vocabulary.size(drawn.vocabulary_keep)
        student = build_student(drawn, prepared.shape, size).eval()
        start_from_supernet(student, supernet, drawn, own.vocabulary)
        path = tmp_path / f"{seed}.onnx"
        path.write_bytes(export_model(drawn, prepared.shape, size, student).SerializeToString())
        encoded = own.encode("task", size, taught.task.validation)
        np.testing.assert_allclose(
            run_model(open_session(path), encoded), run_student(student, encoded), atol=2e-3, rtol=0
        )


def test_it_learns_at_all_sizes(prepared: Prepared, supernet: Supernet) -> None:
    assert supernet.record["steps"] == 8
    assert supernet.record["loss"][-1] < supernet.record["loss"][0]
    found = ElasticSpace(SPACE).sandwich(np.random.default_rng(0), 1)
    assert [len(each.layers) for each in found[:2]] == [3, 1]
    assert [each.width for each in found[:2]] == [64, 32]
    assert [each.vocabulary_keep for each in found[:2]] == [0.9, 0.6]
    assert [each.layer_repeats for each in found[:2]] == [2, 1]


def test_recipes_that_may_be_drawn_change_nothing() -> None:
    """The name of a supernet in the cache does not hold them."""
    given = SPACE.model_dump(exclude_unset=True)
    recipe = {"learning_rate": [1e-3, 2e-3], "temperature": {"low": 1.0, "high": 3.0}}
    other = SpaceSpec(**{**given, "accuracy_level": [0, 4], "recipe": {**given.get("recipe", {}), **recipe}})

    def drawn(spec: Any) -> list[TransformerConfig]:
        generator = np.random.default_rng(0)
        found = [config for _ in range(4) for config in ElasticSpace(spec).sandwich(generator, 2)]
        return [config.model_copy(update={"accuracy_level": 4}) for config in found]

    assert drawn(other) == drawn(SPACE)


def test_the_same_seed_gives_the_same_bytes_killed_or_not(
    prepared: Prepared, supernet: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    whole = SupernetTraining.run

    def first_part(self: SupernetTraining, until: int | None = None) -> np.ndarray:
        if self.done:
            raise KilledError
        return whole(self, until)

    monkeypatch.setattr(prepare_module, "_SAVED_EVERY", 3)
    monkeypatch.setattr(SupernetTraining, "run", first_part)
    first = prepare_module.cache() / "supernets" / supernet.key
    monkeypatch.setattr(prepare_module, "cache", lambda: tmp_path)
    with pytest.raises(KilledError):
        prepare_supernet(SPEC, SPACE, prepared)
    monkeypatch.setattr(SupernetTraining, "run", whole)

    def killed(*_: object) -> None:
        raise KilledError

    for module, writer in ((prepare_module, "save_tensors"), (cache_entry, "_seal")):  # after the last step
        with monkeypatch.context() as patch:
            patch.setattr(module, writer, killed)
            with pytest.raises(KilledError):
                prepare_supernet(SPEC, SPACE, prepared)
        assert list(tmp_path.glob("supernets/*.checkpoint"))
    monkeypatch.setattr(SupernetTraining, "_step", killed)
    again = prepare_supernet(SPEC, SPACE, prepared)
    assert again.key == supernet.key
    assert again.record["loss"] == supernet.record["loss"]
    files = [folder / "supernet.safetensors" for folder in (first, tmp_path / "supernets" / again.key)]
    digests = {hashlib.sha256(file.read_bytes()).digest() for file in files}
    assert len(digests) == 1
    assert not list(tmp_path.glob("supernets/*.checkpoint"))
    other = prepare_module.supernet_key(SPEC.model_copy(update={"seed": 1}), SPACE, prepared, ElasticSpace(SPACE))
    assert other != supernet.key


def test_with_a_target_it_learns_from_that_domain_alone(
    plan: TrialPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert plan.task is not None
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path))
    answers, seen = SupernetTraining._answers, set()

    def spied(self: SupernetTraining, rows: np.ndarray) -> list[np.ndarray]:
        seen.update(rows.tolist())
        return answers(self, rows)

    monkeypatch.setattr(SupernetTraining, "_answers", spied)
    keys, drawn = set(), SPEC.model_copy(update={"train_examples": 20})
    for target, spec in (("film", SPEC), ("hotel", SPEC), ("hotel", drawn)):
        seen.clear()
        task = plan.task.model_copy(update={"domain": "domain", "target": target})
        found = prepare(plan.model_copy(update={"task": task, "supernet": spec}))
        learned = set(found.tasks["task"].task.learned_rows.tolist())
        assert len(learned) < 160
        assert seen == learned if spec is SPEC else seen < learned
        assert found.supernet is not None
        keys.add(found.supernet.key)
    assert len(seen) == 20
    assert len(keys) == 3


def test_a_trial_inherits(plan: TrialPlan, prepared: Prepared, supernet: Supernet, tmp_path: Path) -> None:
    assert TrialPlan.model_validate_json(plan.model_dump_json()) == plan
    recipe = Recipe(
        learning_rate=1e-12,
        label_weight=0,
        logit_weight=1,
        hidden_weight=1,
        temperature=1,
        teacher_learning_rate=0,
        state_weight=1,
        initialization="supernet",
    )
    own = config(32, 2, depth=2, embedding=16)
    run_trial(plan, prepared, 0, own, recipe, 0, tmp_path / "bundle")
    # The rate is so small that the student still stands where it began, its head as well.
    found = load_file(str(tmp_path / "bundle" / "student.safetensors"))
    expected = supernet.weights(own, prepared.vocabulary)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)
    without = Prepared(prepared.tasks, prepared.shape, prepared.vocabulary)
    with pytest.raises(ValueError, match="no section supernet"):
        run_trial(plan, without, 0, own, recipe, 0, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_brief_training_goes_further_from_the_supernet_than_from_the_teacher(
    plan: TrialPlan, prepared: Prepared, tmp_path: Path
) -> None:
    """Both train for 16 steps; the supernet's 128 steps have served all of them."""
    assert plan.task is not None
    data = plan.task.data.model_copy(update={"train": 2048, "validation": 400})
    changes = {"task": plan.task.model_copy(update={"data": data}), "supernet": SPEC.model_copy(update={"epochs": 2.0})}
    teacher = plan.teacher.model_copy(update={"epochs": 5, "learning_rate": 3e-3})
    longer = plan.model_copy(
        update={**changes, "teacher": teacher, "fidelity": FidelitySpec(epochs=0.25, batch_size=32)}
    )
    shared = prepare(longer)
    found: dict[str, list[float]] = {"layers": [], "supernet": []}
    for seed in range(6):
        drawn, _ = JointSpace(SPACE).draw(np.random.default_rng(seed))
        for start, qualities in found.items():
            recipe = Recipe(
                learning_rate=2e-3,
                label_weight=0.25,
                logit_weight=1,
                hidden_weight=1,
                temperature=2,
                teacher_learning_rate=0,
                initialization=start,
                clipping="auto",
            )
            record = run_trial(longer, shared, seed, drawn, recipe, seed, tmp_path / f"{start}-{seed}")
            qualities.append(record.quality)
    assert np.mean(found["supernet"]) > np.mean(found["layers"]) + 0.01, found


def test_tasks_that_it_cannot_serve_are_refused(prepared: Prepared) -> None:
    several = Prepared({"a": prepared.tasks["task"], "b": prepared.tasks["task"]}, prepared.shape, prepared.vocabulary)
    with pytest.raises(InputError, match="A supernet is for one task that judges whole texts"):
        prepare_supernet(SPEC, SPACE, several)
    with pytest.raises(ValueError, match="at least one of label_weight"):
        SupernetSpec(label_weight=0, logit_weight=0, hidden_weight=0)
