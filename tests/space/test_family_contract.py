"""What every family of students has to keep; one that is registered is tested here over its default dimensions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from helpers.spaces import wide_spec
from test_bytes import file_bytes, random_shape
from test_parity import TOLERANCE, random_inputs, session

from runners.operators import count_operators
from space import JointSpace, TaskShape, deployed_bytes
from space.config import Bits, Clipping, StudentConfig
from space.dimensions import draw_from
from space.families import FAMILIES, build_student, export_model, get_family
from space.operators import OperatorCall

# Of shares in a range, 1 would hardly be drawn: then nothing is pruned.
SHARES = {"transformer": {"token_keep": [1.0, 0.83, 0.5, 0.21]}}
SMALL = {
    "transformer": {"depth": {"low": 1, "high": 5}},
    "birnn": {"hidden_width": [32, 64]},
    "conv": {"depth": {"low": 0, "high": 4}},
}
OF_TOKENS = {"transformer": {"token_keep": 1.0}, "birnn": {"pooling": "mean"}}  # where each token has logits


def space(
    family: str, per_token: bool = False, bits: int | None = None, small: bool = False, **fields: Any
) -> JointSpace:
    """The wide space of a family; of one bit-width, or small enough to be run, where that is wanted."""
    section = {**SHARES.get(family, {}), **(SMALL.get(family, {}) if small else {})}
    section |= OF_TOKENS.get(family, {}) if per_token else {}
    if bits is not None:
        section |= {name: bits for name in FAMILIES[family].dimensions.model_fields if name.endswith("bits")}
        fields["embedding_bits"] = bits
    if small:
        fields["vocabulary_keep"] = {"low": 0.01, "high": 0.1}
    spec = wide_spec(family, section, **fields)
    assert FAMILIES[family].misfit(getattr(spec, family), per_token) is None
    return JointSpace(spec)


@pytest.mark.parametrize("family", FAMILIES)
def test_predicted_bytes_equal_file_bytes_for_100_random_configurations(family: str, vocabulary: Any) -> None:
    generator = np.random.default_rng(1)
    for number in range(100):
        per_token = number % 4 == 0
        config, _ = space(family, per_token).draw(generator)
        shape = random_shape(generator).model_copy(update={"per_token": per_token})
        assert deployed_bytes(config, shape, vocabulary) == file_bytes(config, shape, vocabulary), config.summary()
    for tasks in (2, 3, 12):
        config, _ = space(family).draw(generator)
        shape = TaskShape.joint({f"task{number}": random_shape(generator) for number in range(tasks)})
        assert deployed_bytes(config, shape, vocabulary) == file_bytes(config, shape, vocabulary)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("bits", [*get_args(Bits), None])
@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_and_torch_logits_agree_batched_and_one_by_one(
    family: str, bits: int | None, per_token: bool, vocabulary: Any
) -> None:
    """At every bit-width, and mixed; the rest is drawn. Alone there is no padding, and none leaks elsewhere."""
    generator = np.random.default_rng([bits or 0, per_token])
    drawn = space(family, per_token, bits, small=True, accuracy_level=0)
    for number, clipping in enumerate(get_args(Clipping)):
        config, _ = drawn.draw(generator)
        shape = TaskShape(outputs=3, segments=1 + number % 2, max_length=40, per_token=per_token)
        size = vocabulary.size(config.vocabulary_keep)
        torch.manual_seed(number)
        student = build_student(config, shape, size).eval()
        student.use_clipping(clipping)
        with torch.no_grad():
            student.head.weight.mul_(20)  # logits of the size that training gives
            for name, value in student.named_parameters():
                if name == "query":  # of attentive pooling, zero at first
                    value.normal_()
                elif value.dim() == 1 and not name.startswith("head"):  # biases and gains that are no zeros and ones
                    value.add_(torch.randn_like(value) * 0.1)
        model = export_model(config, shape, size, student)
        onnx.checker.check_model(model)
        run, feed = session(model), random_inputs(generator, shape, size)
        with torch.no_grad():
            expected = student(**{name: torch.from_numpy(array) for name, array in feed.items()}).numpy()
        present = feed["attention_mask"] == 1
        found, wanted = run.run(["logits"], feed)[0], expected
        if per_token:
            found, wanted = found[present], wanted[present]
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE, err_msg=config.summary())
        for row, length in enumerate(present.sum(1)):
            alone = run.run(["logits"], {name: array[row : row + 1, :length] for name, array in feed.items()})[0]
            np.testing.assert_allclose(alone[0], expected[row, :length] if per_token else expected[row], atol=TOLERANCE)


def with_bias(calls: list[OperatorCall]) -> list[OperatorCall]:
    """As ONNX Runtime does it: the bias of weights that are unpacked at load is added within the activation.

    The latency model counts an addition more there, up to 2.7 % of a small student.
    """
    found: list[OperatorCall] = []
    names = {"Gelu": "BiasGelu", "FastGelu": "FastGelu"}
    for call in calls:
        if call.operator in names and found[-1].operator == "Add":
            bias = found.pop()
            call = call._replace(operator=names[call.operator], inputs=bias.inputs)
        found.append(call)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_says_that_runs_is_what_onnx_runtime_runs(family: str, tmp_path: Path) -> None:
    """Its sections, which the latency model adds up, against ONNX Runtime's own profile of the file."""
    generator = np.random.default_rng(2)
    file = tmp_path / "model.onnx"
    seen = Counter[tuple[bool, int]]()
    kept = set()
    for number in range(30):
        per_token, segments = number % 3 == 0, 1 + number % 2
        config, _ = space(family, per_token, small=True).draw(generator)
        if getattr(config, "heads", 2) == 1:  # then ONNX Runtime moves transpositions past the split
            continue
        shape = TaskShape(outputs=2, segments=segments, max_length=64, per_token=per_token)
        torch.manual_seed(0)
        file.write_bytes(export_model(config, shape, 600, build_student(config, shape, 600)).SerializeToString())
        tokens = int(generator.choice([2, 7, 64]))
        sections = get_family(family).sections(config, shape, 600, tokens)
        said = [call for section in sections for call in section.calls]
        assert Counter(with_bias(said)) == Counter(count_operators(file, tokens)), config.summary()
        seen[per_token, segments] += 1
        if not per_token:
            shares = [getattr(layer, "token_keep", 1.0) for layer in getattr(config, "layers", ())]
            kept.add(min(shares, default=1.0) < 1)
    assert len(seen) == 4
    assert kept == ({True, False} if family == "transformer" else {False})


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_hold_every_parameter_but_those_of_the_head_once(family: str) -> None:
    """They are what training in stages unfreezes, the word embeddings last."""
    config, _ = space(family, small=True).draw(np.random.default_rng(1))
    student = build_student(config, TaskShape(outputs=2, segments=2, max_length=32), 300)
    student.use_clipping("learned")
    words = torch.randn(300, student.embedding_width)
    student.load_embeddings(words, torch.zeros(32, student.embedding_width))
    blocks = student.blocks()
    assert len(blocks) > 1
    assert any(torch.equal(value, words) for value in blocks[-1])
    wanted = {id(value) for key, value in student.named_parameters() if not key.startswith("head.")}
    assert sorted(id(value) for block in blocks for value in block) == sorted(wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_starting_embeddings_are_those_of_the_file(family: str, vocabulary: Any) -> None:
    config, _ = space(family, bits=8, small=True).draw(np.random.default_rng(3))
    shape = TaskShape(outputs=2, segments=1, max_length=16)
    student = build_student(config, shape, 300)
    words = torch.randn(300, student.embedding_width) * 0.1
    positions = torch.randn(16, student.embedding_width) * 0.1
    student.load_embeddings(words, positions)
    assert any(torch.equal(value, words) for value in student.state_dict().values())
    saved = student.state_dict()
    other = build_student(config, shape, 300)
    other.load_weights(saved)
    one, two = (export_model(config, shape, 300, made).SerializeToString() for made in (student, other))
    assert one == two


@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_what_it_is(family: str) -> None:
    kind = get_family(family)
    assert kind.name == family
    assert kind.title.split()[0] in ("A", "An")
    assert kind.initializations >= {"random"}
    wide, generator = space(family), np.random.default_rng(4)
    for _ in range(20):
        config, recipe = wide.draw(generator)
        assert config.family == family
        assert config.summary()
        asked: dict[str, Any] = {}

        def choose(name: str, dimension: Any, asked: dict[str, Any] = asked) -> Any:
            asked[name] = draw_from(generator)(name, dimension)
            return asked[name]

        fields = kind.choose(getattr(wide.spec, family), choose)
        shared = {name: value for name, value in config.model_dump().items() if name in StudentConfig.model_fields}
        assert kind.parameters(kind.config.model_validate({**shared, **fields})) == asked
        assert wide.from_params(wide.to_params(config, recipe)) == (config, recipe)
