from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from space import InputError, JointSpace, Recipe, SpaceSpec, parse_config
from space.dimensions import Choices, Range, contains, draw_from, ends
from space.families import FAMILIES


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_configurations_round_trip_through_params_and_json(seed):
    space = JointSpace(SpaceSpec(families=list(FAMILIES)))
    config, recipe = space.draw(np.random.default_rng(seed))
    assert space.from_params(space.to_params(config, recipe)) == (config, recipe)
    assert parse_config(config.model_dump(mode="json")) == config
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_optuna_params_are_the_flat_params():
    space = JointSpace(SpaceSpec(families=list(FAMILIES)))  # names of one family's parameters are no other's
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        config, recipe = space.suggest(trial)
        assert trial.params == space.to_params(config, recipe)
        assert space.from_params(trial.params) == (config, recipe)
        study.tell(trial, 0.0)


def test_per_layer_parameters_follow_the_depth():
    space = JointSpace(SpaceSpec(transformer={"depth": 2}))
    params = space.to_params(*space.draw(np.random.default_rng(0)))
    assert "layer1.ffn_bits" in params
    assert "layer2.ffn_bits" not in params
    assert "depth" not in params  # fixed, so no parameter


def test_missing_or_foreign_parameters_are_named():
    space = JointSpace(SpaceSpec())
    params = space.to_params(*space.draw(np.random.default_rng(0)))
    with pytest.raises(InputError, match=r"'width' is missing"):
        space.from_params({name: value for name, value in params.items() if name != "width"})
    with pytest.raises(InputError, match=r"'width' is 100, outside its dimension \[96, 128, 192, 256\]"):
        space.from_params({**params, "width": 100})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"depht": 3}, "Extra inputs"),
        ({"transformer": {"width": {"low": 9, "high": 3}}}, "low 9 above high 3"),
        ({"transformer": {"width": [96, 96]}}, "same choice twice"),
        ({"recipe": {"temperature": {"low": 0, "high": 3, "log": True}}}, "low above 0"),
        ({"families": ["lstm"]}, "no student family 'lstm'"),
        ({"embedding_bits": None}, "list of choices"),
        ({"embedding_bits": [2, 3]}, "embedding_bits cannot be 3"),
        ({"vocabulary_keep": {"low": 0, "high": 1}}, "vocabulary_keep cannot be 0"),
        ({"transformer": {"ffn_bits": [4, 6]}}, "ffn_bits cannot be 6"),
        ({"transformer": {"depth": {"low": 1, "high": 12}}}, "whole numbers from 1 to 9"),
        ({"transformer": {"width": [128], "heads": [2, 3]}}, "width 128 is no multiple of heads 3"),
        ({"transformer": {"width": {"low": 64, "high": 128, "step": 32}}}, "lists of choices"),
        ({"recipe": {"initialization": ["tacher"]}}, "initialization cannot be 'tacher'"),
        ({"recipe": {"hidden_weight": {"low": 0.0, "high": float("inf")}}}, "finite numbers, not inf"),
        ({"recipe": {"hidden_weight": [1.0, float("inf")]}}, "finite numbers, not inf"),
        ({"recipe": {"hidden_weight": {"low": float("nan"), "high": 1.0}}}, "finite numbers, not nan"),
        ({"recipe": {"hidden_weight": {"low": 0.0, "high": 1.0, "step": float("inf")}}}, "finite numbers, not inf"),
        ({"recipe": {"hidden_weight": {"low": 0, "high": 10**400}}}, "finite numbers, not 1000"),
        ({"embedding_bits": {"low": 2, "high": 4}}, "embedding_bits cannot be 3: it should be 2, 4 or 8; give a list"),
        ({"block_size": {"low": 32, "high": 128}}, "block_size cannot be 33.*; give a list"),
        ({"embedding_width": {"low": 32, "high": 128}}, "embedding_width cannot be 33.*; give a list, or step: 16"),
        ({"embedding_width": {"low": 32.0, "high": 128.0}}, "embedding_width should be whole numbers"),
        ({"transformer": {"ffn_width": {"low": 64, "high": 256, "step": 24}}}, "ffn_width cannot be 88"),
        ({"birnn": {"hidden_width": {"low": 64, "high": 128}}}, "hidden_width cannot be 65"),
        ({"conv": {"width": {"low": 64, "high": 128}}}, "width cannot be 65"),
    ],
)
def test_wrong_sections_are_refused(section, message):
    with pytest.raises((ValidationError, InputError), match=message):
        SpaceSpec(**section)


def test_a_range_reaches_no_further_than_its_steps():
    """Neither is `high` asked to fit, nor counted as the largest value, where no step leads to it."""
    space = JointSpace(SpaceSpec(embedding_width={"low": 32, "high": 120, "step": 32}))
    generator = np.random.default_rng(0)
    assert {space.draw(generator)[0].embedding_width for _ in range(50)} == {32, 64, 96}
    assert ends(space.spec.embedding_width) == (32, 96)
    assert ends(Range(low=0.5, high=1.0, step=0.2)) == pytest.approx((0.5, 0.9))
    assert ends(Range(low=0.1, high=0.3, step=0.1)) == (0.1, 0.3)


def test_numbers_written_as_text_are_numbers():
    """YAML reads 1e-3 as text, and what stands in quotes."""
    recipe = {"learning_rate": ["2e-3", "1e-3"], "label_weight": "1e-1"}
    space = JointSpace(SpaceSpec(vocabulary_keep=["0.4", "0.05"], embedding_width=["64", 32], recipe=recipe))
    assert space.spec.vocabulary_keep.values == (0.4, 0.05)
    assert space.spec.embedding_width.values == (64, 32)
    assert space.spec.recipe.label_weight.values == (0.1,)
    config, recipe = space.draw(np.random.default_rng(0))
    assert space.from_params(space.to_params(config, recipe)) == (config, recipe)
    assert min(ends(space.spec.recipe.learning_rate)) == 0.001
    with pytest.raises(ValidationError, match="same choice twice"):
        SpaceSpec(vocabulary_keep=["0.4", 0.4])
    with pytest.raises(ValidationError, match="finite numbers"):
        SpaceSpec(recipe={"hidden_weight": ["inf"]})
    with pytest.raises(ValidationError, match="learning_rate cannot be 'fast'"):
        SpaceSpec(recipe={"learning_rate": ["fast"]})


def test_configurations_are_validated():
    config, recipe = JointSpace(SpaceSpec()).draw(np.random.default_rng(0))
    fields = config.model_dump()
    with pytest.raises(ValidationError, match="no multiple of heads"):
        parse_config({**fields, "width": 112, "heads": 5})
    with pytest.raises(ValidationError, match="embedding_bits"):
        parse_config({**fields, "embedding_bits": 3})
    with pytest.raises(ValidationError, match="finite"):
        Recipe.model_validate({**recipe.model_dump(), "hidden_weight": float("inf")})
    with pytest.raises(ValidationError, match="frozen"):
        config.width = 3


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.builds(
            lambda low, span, step: Range(low=low, high=low + span, step=step),
            st.integers(0, 9),
            st.integers(0, 90),
            st.integers(1, 7),
        ),
        st.builds(lambda low, span: Range(low=low, high=low + span), st.floats(-5, 5), st.floats(0.1, 9)),
        st.builds(lambda low, span: Range(low=low, high=low * span, log=True), st.floats(1e-5, 1), st.floats(1.1, 1e3)),
        st.builds(lambda low, span: Range(low=low, high=low + span, log=True), st.integers(1, 9), st.integers(1, 90)),
        st.builds(lambda values: Choices(values=tuple(values)), st.lists(st.integers(), min_size=1, unique=True)),
    ),
    st.integers(0, 2**31),
)
def test_what_is_drawn_lies_in_the_dimension(dimension, seed):
    assert contains(dimension, draw_from(np.random.default_rng(seed))("name", dimension))
