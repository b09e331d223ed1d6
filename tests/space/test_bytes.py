"""Predicted bytes are the bytes of the file."""

from __future__ import annotations

import time
from typing import get_args

import numpy as np
import onnx
import torch
from helpers.spaces import wide_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from space import JointSpace, SpaceSpec, StudentConfig, TaskShape, Vocabulary, architecture_key, deployed_bytes
from space.config import VocabularyScore
from space.families import build_student, export_model
from space.families.transformer.config import Unpacking

WIDE, BIRNN = wide_spec("transformer"), wide_spec("birnn")
# Few layers gone through so often that their numbers have two digits.
REPEATED = SpaceSpec(
    vocabulary_keep=0.05,
    embedding_width=32,
    transformer={
        "depth": [1, 2, 3],
        "width": 64,
        "ffn_width": 64,
        "token_keep": [0.5, 1],
        "unpacking": get_args(Unpacking),
        "layer_repeats": [3, 4, 5, 8],
    },
)


def file_bytes(config: StudentConfig, shape: TaskShape, vocabulary: Vocabulary) -> int:
    vocabulary = vocabulary.ranked_by(config.vocabulary_score)
    size = vocabulary.size(config.vocabulary_keep)
    model = export_model(config, shape, size, build_student(config, shape, size))
    tokens = "".join(f"{token}\n" for token in vocabulary.tokens(size))
    return len(model.SerializeToString()) + len(tokens.encode())


def random_shape(generator: np.random.Generator) -> TaskShape:
    return TaskShape(
        outputs=int(generator.integers(1, 200)),
        segments=int(generator.integers(1, 3)),
        max_length=int(generator.integers(8, 513)),
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_predicted_bytes_equal_file_bytes_for_any_seed(vocabulary, seed):
    generator = np.random.default_rng(seed)
    config, _ = JointSpace(WIDE).draw(generator)
    shape = random_shape(generator)
    assert deployed_bytes(config, shape, vocabulary) == file_bytes(config, shape, vocabulary)


def test_repeated_layers_are_counted_once(vocabulary):
    generator = np.random.default_rng(6)
    space, shape = JointSpace(REPEATED), TaskShape(outputs=2, segments=1, max_length=32)
    for _ in range(25):
        config, _ = space.draw(generator)
        found = deployed_bytes(config, shape, vocabulary)
        assert found == file_bytes(config, shape, vocabulary), config.summary()
        once = config.model_copy(update={"layer_repeats": 1})
        more = found - deployed_bytes(once, shape, vocabulary)
        executed = len(config.layers) * (config.layer_repeats - 1)
        assert 0 < more < 2000 * executed  # operators alone: weights of the smallest layer take 8 kB
        assert architecture_key(config, shape, 500) != architecture_key(once, shape, 500)


def test_scores_of_the_vocabulary_change_its_file_alone(vocabulary):
    shape = TaskShape(outputs=2, segments=1, max_length=32)
    config, _ = JointSpace(SpaceSpec(vocabulary_keep=0.3)).draw(np.random.default_rng(0))
    size = vocabulary.size(0.3)
    scored = [config.model_copy(update={"vocabulary_score": score}) for score in get_args(VocabularyScore)]
    kept = [vocabulary.ranked_by(one.vocabulary_score) for one in scored]
    assert len({tuple(one.tokens(size)) for one in kept}) == 3
    models = {deployed_bytes(c, shape, vocabulary) - v.file_bytes(size) for c, v in zip(scored, kept, strict=True)}
    assert len(models) == 1
    assert len({architecture_key(one, shape, size) for one in scored}) == 1


def test_exported_model_passes_the_onnx_checker(vocabulary):
    config, _ = JointSpace(SpaceSpec()).draw(np.random.default_rng(3))
    shape = TaskShape(outputs=2, segments=2, max_length=64)
    size = vocabulary.size(config.vocabulary_keep)
    onnx.checker.check_model(export_model(config, shape, size, build_student(config, shape, size)))


def test_counting_bytes_takes_about_a_millisecond(vocabulary):
    space, generator = JointSpace(SpaceSpec()), np.random.default_rng(2)
    shape = TaskShape(outputs=2, segments=1, max_length=64)
    configs = [space.draw(generator)[0] for _ in range(300)]
    deployed_bytes(configs[0], shape, vocabulary)
    begin = time.process_time()
    for config in configs:
        deployed_bytes(config, shape, vocabulary)
    # A generous bound: this guards against building tensors, not against a slow machine.
    assert (time.process_time() - begin) / len(configs) < 0.01


def test_no_configuration_is_smaller_than_the_smallest(vocabulary):
    shape = TaskShape(outputs=3, segments=1, max_length=32)
    for spec in (SpaceSpec(), WIDE, BIRNN, SpaceSpec(families=["transformer", "birnn"])):
        space, generator = JointSpace(spec), np.random.default_rng(4)
        smallest = space.smallest_bytes(shape, vocabulary)
        sizes = [deployed_bytes(space.draw(generator)[0], shape, vocabulary) for _ in range(300)]
        assert smallest <= min(sizes)


def test_the_smallest_is_that_of_all_configurations(vocabulary):
    """Narrow rows and few bits: here small blocks fill up less and win."""
    shape = TaskShape(outputs=2, segments=1, max_length=16)
    choices = {"width": [96, 128], "heads": 2, "ffn_width": [128], "depth": 1, "activation": "relu"}
    spec = SpaceSpec(
        vocabulary_keep=0.05,
        embedding_width=[32, 48],
        embedding_bits=2,
        block_size=[16, 32, 64, 128],
        transformer={**choices, "token_keep": [0.5, 1.0], "attention_bits": [2, 4], "ffn_bits": 2},
    )
    space = JointSpace(spec)
    generator = np.random.default_rng(0)
    sizes = {deployed_bytes(space.draw(generator)[0], shape, vocabulary) for _ in range(1000)}
    assert space.smallest_bytes(shape, vocabulary) == min(sizes)


def test_fewest_bits_need_not_be_smallest_where_weights_are_unpacked_at_load(vocabulary):
    """Those of 2 and 8 bits bring operators along, which in tiny maps outweigh what fewer bits save."""
    shape = TaskShape(outputs=2, segments=1, max_length=16)
    tiny = {"depth": 1, "width": [16, 32], "heads": 2, "ffn_width": 16, "activation": "relu", "token_keep": 1.0}
    bits = {"attention_bits": [2, 4, 8], "ffn_bits": [2, 4, 8]}
    shared = {"vocabulary_keep": 0.05, "embedding_width": 16, "block_size": [16, 32]}
    for embedding_bits, unpacking in ([2], ["load"]), ([4], ["load"]), ([2, 4], ["run", "load"]):
        spec = SpaceSpec(**shared, embedding_bits=embedding_bits, transformer={**tiny, **bits, "unpacking": unpacking})
        space, generator = JointSpace(spec), np.random.default_rng(0)
        sizes = {deployed_bytes(space.draw(generator)[0], shape, vocabulary) for _ in range(600)}
        assert space.smallest_bytes(shape, vocabulary) == min(sizes)


def test_architecture_key_ignores_weights_and_tells_bits_apart(vocabulary):
    shape = TaskShape(outputs=2, segments=1, max_length=32)
    config, _ = JointSpace(SpaceSpec(embedding_bits=4)).draw(np.random.default_rng(5))
    other = config.model_copy(update={"embedding_bits": 8})
    torch.manual_seed(0)
    assert architecture_key(config, shape, 500) == architecture_key(config.model_copy(), shape, 500)
    assert architecture_key(config, shape, 500) != architecture_key(other, shape, 500)
    assert architecture_key(config, shape, 500) != architecture_key(config, shape, 501)
