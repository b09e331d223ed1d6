from __future__ import annotations

import numpy as np
import pytest

from objectives.latency import known_profiles, load_profile
from objectives.latency.estimate import LatencyModel, add_up, estimate
from objectives.latency.traffic import Machine, Workspace, memory_features
from objectives.latency.work import work_of
from space import JointSpace, SpaceSpec, StudentConfig, TaskShape
from space.families import FAMILIES, get_family, parse_config
from space.families.transformer import Layer, TransformerConfig
from space.operators import OperatorCall

SHAPE = TaskShape(outputs=2, segments=1, max_length=128)
VOCABULARY = 4000


def _config(**changes) -> TransformerConfig:
    layer = {"ffn_width": 512, "token_keep": 1.0, "attention_bits": 4, "ffn_bits": 4, **changes.pop("layer", {})}
    fields = {
        "vocabulary_keep": 0.2,
        "embedding_width": 64,
        "embedding_bits": 4,
        "block_size": 32,
        "accuracy_level": 4,
        "width": 192,
        "heads": 4,
        "activation": "gelu",
        "layers": (Layer(**layer),) * changes.pop("depth", 3),
    }
    return TransformerConfig.model_validate(fields | changes)


def _recurrent(hidden: int = 128, cell: str = "lstm", depth: int = 1) -> StudentConfig:
    layer = {"hidden_width": hidden, "input_bits": 4, "recurrent_bits": 4}
    fields = {"embedding_width": 64, "embedding_bits": 4, "block_size": 32, "accuracy_level": 4, "vocabulary_keep": 0.2}
    own = {"family": "birnn", "cell": cell, "width": 128, "projection_bits": 4, "layers": [layer] * depth}
    return parse_config({**fields, **own})


@pytest.fixture(scope="module", params=known_profiles())
def model(request: pytest.FixtureRequest) -> LatencyModel:
    return LatencyModel(load_profile(request.param))


def test_more_work_takes_longer(model: LatencyModel) -> None:
    def milliseconds(tokens: int = 32, **changes) -> float:
        return model.predict(_config(**changes), SHAPE, VOCABULARY, tokens).milliseconds

    base = milliseconds()
    assert milliseconds(tokens=16) < base < milliseconds(tokens=64)
    assert milliseconds(depth=2) < base < milliseconds(depth=4)
    assert milliseconds(layer={"ffn_width": 256}) < base < milliseconds(layer={"ffn_width": 768})
    assert milliseconds(layer={"token_keep": 0.5}, tokens=128) < milliseconds(tokens=128)
    assert milliseconds(width=128) < base < milliseconds(width=256)


def test_recurrent_weights_that_do_not_fit_the_cache_are_read_again_at_every_step(model: LatencyModel) -> None:
    def milliseconds(tokens: int = 32, **changes) -> float:
        return model.predict(_recurrent(**changes), SHAPE, VOCABULARY, tokens).milliseconds

    assert milliseconds(tokens=16) < milliseconds() < milliseconds(tokens=64)
    assert milliseconds(cell="gru") < milliseconds() < milliseconds(depth=2)
    # Of 512, a direction takes 4 MB, which no cache here holds, of 64 one 64 kB; products alone grow 36 times.
    stalls = [model.predict(_recurrent(hidden), SHAPE, VOCABULARY, 32).stall_cycles for hidden in (64, 512)]
    assert stalls[1] > 2 * 36 * stalls[0]


def test_sections_add_up_to_what_the_whole_was_fitted_as(model: LatencyModel) -> None:
    """The fast path, section by section, equals costs times the features that the fit used."""
    machine = Machine.of(model.profile)
    costs = model.estimates.costs
    tagging = TaskShape(outputs=7, segments=1, max_length=128, per_token=True)
    several = TaskShape.joint({"one": SHAPE, "other": TaskShape(outputs=1, segments=2, max_length=128)})
    for config, shape in (
        (_config(), SHAPE),
        (_config(), several),
        (_config(depth=5, layer={"token_keep": 0.5, "ffn_bits": 2}), SHAPE),
        (_config(width=256, heads=8), SHAPE),
        (_config(), tagging),
        (_config(layer={"attention_bits": 8, "ffn_bits": 2}), SHAPE),
        (_recurrent(), tagging),
        (_recurrent(hidden=256, cell="gru", depth=2), several),
    ):
        for tokens in (5, 64):
            sections = get_family(config.family).sections(config, shape, VOCABULARY, tokens)
            calls = [call for section in sections for call in section.calls]
            found = model.predict(config, shape, VOCABULARY, tokens)
            assert found.uncosted_calls == 0
            work = [({"run": 1.0}), *map(work_of, calls)]
            compute = sum(add_up(amounts, {n: c.cycles for n, c in costs.items()}) for amounts in work)
            assert found.compute_cycles == pytest.approx(compute)
            stalls = add_up(memory_features(calls, machine, model.estimates.live), model.estimates.stalls)
            assert found.stall_cycles == pytest.approx(stalls)
            assert found.milliseconds == pytest.approx(model.predict_calls(calls).milliseconds)


def test_workspace_knows_what_was_touched_since_each_piece_of_it_was_used() -> None:
    workspace = Workspace()
    assert workspace.use(100, (10, 1, 0)) == []
    assert workspace.use(40, (15, 2, 0)) == [(40, (5, 1, 100, 0))]
    # The first 40 bytes were used last, the next 60 before that, the rest never.
    assert workspace.use(200, (25, 4, 3)) == [(40, (10, 2, 200, 3)), (60, (15, 3, 200, 3))]
    assert workspace.use(50, (26, 4, 3)) == [(50, (1, 0, 200, 0))]


def test_an_operator_without_a_record_costs_something_and_is_reported() -> None:
    profile = load_profile("cortex-a53")
    config = _config()
    sections = get_family("transformer").sections(config, SHAPE, VOCABULARY, 32)
    calls = [call for section in sections for call in section.calls]
    attributes = (("K", 64), ("N", 64), ("bits", 3), ("block_size", 32))
    unknown = OperatorCall("MatMulNBits", attributes, ((1, 32, 64),), ((1, 32, 64),))
    known, more = estimate(calls, profile, 32), estimate([*calls, unknown], profile, 32)
    assert known.backend == more.backend == "estimated"
    assert known.uncosted_calls == 0
    assert more.uncosted_calls == 1
    assert more.milliseconds > known.milliseconds > 0
    assert "estimates" in known.versions


def test_every_student_of_the_default_space_is_costed(model: LatencyModel) -> None:
    generator = np.random.default_rng(0)
    space = JointSpace(SpaceSpec(families=list(FAMILIES)))
    for _ in range(100):
        config, _ = space.draw(generator)
        assert model.predict(config, SHAPE, VOCABULARY, 48).uncosted_calls == 0
