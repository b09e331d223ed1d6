"""Differentiable search of cells: sampling, costs, probes and derivation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from runners.differentiable.costs import operation_costs
from runners.differentiable.derive import EDGES, Cell, collapse_of, derive, entropy
from runners.differentiable.probes import probe_logits, text_states
from runners.differentiable.search import knowledge_loss
from runners.differentiable.supernet import Sample, Supernet
from runners.lessons import WordStates
from space import TaskShape, Vocabulary
from space.families import build_student, deployed_bytes
from space.families.conv import ConvConfig
from space.families.conv.config import OPERATIONS, Edge, Node
from space.vocabulary import SPECIAL_TOKENS

SHAPE = TaskShape(outputs=2, segments=1, max_length=16)


def cell_of(*edges: tuple[str, str]) -> tuple[Node, ...]:
    made = [Edge(input=source, operation=operation) for source, operation in edges]
    return tuple(Node(left=made[i], right=made[i + 1]) for i in (0, 2, 4))


CELL = cell_of(
    ("cell-2", "conv3"), ("cell-1", "max_pool3"), ("cell-1", "identity"), ("node1", "dilated_conv5"),
    ("cell-2", "average_pool3"), ("node2", "conv7"),
)  # fmt: skip


def config(depth: int = 2, nodes: tuple[Node, ...] = CELL) -> ConvConfig:
    return ConvConfig(
        vocabulary_keep=1.0,
        embedding_width=16,
        embedding_bits=8,
        block_size=16,
        accuracy_level=0,
        width=32,
        conv_bits=8,
        depth=depth,
        nodes=nodes,
        pooling="attentive",
    )


def test_a_sampled_architecture_is_the_student_of_that_cell():
    torch.manual_seed(0)
    net = Supernet(config(), SHAPE, 50, OPERATIONS, [1, 2, 3]).eval()
    student = build_student(config(), SHAPE, 50).eval()
    student.set_rounding(False)
    with torch.no_grad():
        net.queries.normal_()
    chosen = [OPERATIONS.index("zero")] * len(EDGES)
    for number, node in enumerate(CELL, start=1):
        for side, edge in enumerate((node.left, node.right)):
            index = EDGES.index((number, edge.input))
            chosen[index] = OPERATIONS.index(edge.operation)
            for place, own in enumerate(student.cells):
                own.edges[number - 1][side].load_state_dict(net.cells[place][index][chosen[index]].state_dict())
    student.embedding.load_state_dict(net.embedding.state_dict())
    student.query.data.copy_(net.queries[1])
    student.head.load_state_dict(net.heads[1].state_dict())
    inputs = {"input_ids": torch.randint(5, 50, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.int64)}
    inputs["attention_mask"][1, 4:] = 0
    with torch.no_grad():
        answers = net(Sample(chosen, torch.ones(len(EDGES)), 2, torch.ones(())), inputs)
        torch.testing.assert_close(answers[-1], student(**inputs), atol=1e-5, rtol=1e-4)
    assert len(answers) == 2


def test_gates_are_one_and_carry_gradients_to_what_was_chosen():
    torch.manual_seed(0)
    net = Supernet(config(), SHAPE, 50, OPERATIONS, [1, 2])
    sample = net.sample(0.7, torch.Generator().manual_seed(1))
    again = net.sample(0.7, torch.Generator().manual_seed(1))
    assert sample.operations == again.operations
    assert len(set(sample.operations)) > 1
    torch.testing.assert_close(sample.gates, torch.ones(len(EDGES)))
    inputs = {"input_ids": torch.randint(5, 50, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    net(sample, inputs)[-1].square().sum().backward()
    assert net.depth_logits.grad.abs().sum() > 0
    moved = net.logits.grad.abs().sum(1) > 0
    computed = torch.tensor([OPERATIONS[index] != "zero" for index in sample.operations])
    assert moved.equal(computed)


def test_the_expected_cost_falls_with_cheap_operations_and_small_depths():
    net = Supernet(config(), SHAPE, 50, OPERATIONS, [1, 4])
    costs = torch.linspace(0, 1, len(OPERATIONS))
    assert net.expected_cost(costs).item() == pytest.approx(0.5 * (1 + 4) / 2 / 4)
    with torch.no_grad():
        net.logits[:, -1] = 50.0
        net.depth_logits[1] = 50.0
    assert net.expected_cost(costs).item() == pytest.approx(1.0)


def test_the_strongest_operations_and_inputs_are_derived_and_zero_never_is():
    logits = torch.zeros(len(EDGES), len(OPERATIONS))
    logits[:, OPERATIONS.index("zero")] = 9.0
    strong = {
        (1, "cell-2"): "conv3", (1, "cell-1"): "identity",
        (2, "cell-1"): "conv5", (2, "node1"): "max_pool3",
        (3, "cell-2"): "dilated_conv7", (3, "node2"): "conv7",
    }  # fmt: skip
    for edge, operation in strong.items():
        logits[EDGES.index(edge), OPERATIONS.index(operation)] = 8.0
    found = derive(logits, torch.tensor([0.0, 2.0, 1.0]), OPERATIONS, [1, 3, 4], None)
    assert found.depth == 3
    assert found.nodes == cell_of(*[(source, operation) for (_, source), operation in strong.items()])
    noise = torch.zeros(logits.numel() + 3)
    noise[-1] = 5.0
    assert derive(logits, torch.tensor([0.0, 2.0, 1.0]), OPERATIONS, [1, 3, 4], noise).depth == 4


def test_entropy_is_a_share_of_the_largest():
    assert entropy(torch.zeros(3, 10)) == pytest.approx(1.0)
    assert entropy(torch.eye(3) * 100) == pytest.approx(0.0, abs=1e-6)
    assert entropy(torch.zeros(1, 1)) == 0.0
    assert entropy(torch.tensor([[0.0, math.log(3)]])) == pytest.approx(0.8113, abs=1e-4)


def test_collapse_is_told():
    assert collapse_of(Cell(2, CELL)) is None
    pools = cell_of(*[("cell-1", "average_pool3")] * 5, ("cell-1", "identity"))
    assert "none of its edges has weights: average_pool3, identity" in collapse_of(Cell(2, pools))
    assert "all of its edges are conv3" in collapse_of(Cell(2, cell_of(*[("cell-1", "conv3")] * 6)))


def test_operations_cost_what_they_add_to_bytes_and_latency():
    vocabulary = Vocabulary([*SPECIAL_TOKENS, *map(str, range(60))], np.ones(65), np.ones(65, np.int64))

    def count(one):
        return deployed_bytes(one, SHAPE, vocabulary)

    found = dict(zip(OPERATIONS, operation_costs(config(), OPERATIONS, count, lambda one: {}), strict=True))
    assert found["zero"] == 0
    assert found["identity"] < found["average_pool3"] < found["conv3"] < found["conv5"] < found["conv7"] <= 1
    assert max(found.values()) == 1
    slow = {"max_pool3": 4.0}

    def predict(one):
        return {"latency_ms": 1.0 + slow.get(one.nodes[0].left.operation, 0.0) if one.nodes else 1.0}

    timed = dict(zip(OPERATIONS, operation_costs(config(), OPERATIONS, count, predict), strict=True))
    assert timed["conv7"] == pytest.approx(found["conv7"] / 2)
    assert timed["max_pool3"] == pytest.approx(found["max_pool3"] / 2 + 0.5)


def word_states(generator: np.random.Generator, texts: int, labels: np.ndarray) -> WordStates:
    """Of three layers, of which the second says most of the label and the first nothing."""
    lengths = generator.integers(0, 5, texts)
    lengths[0] = 0
    starts = np.concatenate(([0], np.cumsum(lengths)))
    values = generator.normal(size=(starts[-1], 3, 4)) * 20
    signs = np.repeat(labels * 2 - 1, lengths)
    values[:, 1, 0] += 40 * signs
    return WordStates(
        values.round().astype(np.int8), np.full((3, 4), 0.1, np.float32), starts, lengths, layers=(1, 2, 3), depth=3
    )


def test_probes_read_off_each_layer_what_it_knows():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 3000)
    words = word_states(generator, 3000, labels)
    means = text_states(words)
    assert (means[0] == 0).all()
    row = int(np.argmax(np.diff(words.starts) == 3))
    own = words.values[words.starts[row] : words.starts[row + 1]].astype(np.float32) * 0.1
    np.testing.assert_allclose(means[row], own.mean(0), atol=1e-4)
    teacher = generator.normal(size=(3000, 2)).astype(np.float32)
    found = probe_logits(words, labels, 2, teacher, torch.Generator().manual_seed(0))
    right = (found.argmax(-1) == labels[:, None]).mean(0)
    assert right[0] < 0.6 < 0.8 < right[1]
    np.testing.assert_array_equal(found[:, -1], teacher)


def test_cells_learn_from_the_probe_that_tells_the_label():
    """Two cells and two probes: the loss is the weighted cross-entropy computed by hand."""
    answers = [torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]])]
    probes = torch.tensor([[[3.0, 0.0], [0.0, 3.0]]])
    labels = torch.tensor([0])
    log = [torch.log_softmax(one, -1)[0] for one in answers]
    targets = [torch.softmax(one, -1) for one in probes[0]]
    wrong = torch.stack([-torch.log_softmax(one, -1)[0] for one in probes[0]])
    weights = torch.softmax(-wrong, 0)
    expected = -sum(weights[i] * (targets[i] * log[i]).sum() for i in range(2))
    torch.testing.assert_close(knowledge_loss(answers, probes, labels), expected)
    # One cell learns from the last of the probes.
    alone = knowledge_loss(answers[:1], probes, labels)
    torch.testing.assert_close(alone, -(targets[1] * log[0]).sum())
