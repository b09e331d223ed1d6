"""Students that a study tries before its sampler proposes: cells from a differentiable search, at random, and none.

They enter the study as ordinary trials, so that one budget, one limit and one training serve all of them. All are built
alike but for their cells: what else the space leaves open is drawn once, as large as the limits allow with the
largest cell. Cells at random are of about the size of the derived one. Without cells, a student of that size
has room for more words, or for more of each; how to use it is drawn.

Families without cells can have students proposed whose bits follow the sensitivity of their parts
(`search.guided_bits`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
from pydantic import BaseModel, ConfigDict, Field

from runners.differentiable.spec import DifferentiableSpec
from search.guided_bits import PROPOSER, GuidedBits, families_with_bits, propose_bits
from search.premises import Premises
from search.states import PROPOSED
from space.config import Recipe, StudentConfig
from space.dimensions import Choices, Range, contains, draw_from, ends
from space.errors import InputError
from space.families.conv.config import NODES, ConvConfig, ConvDimensions, Edge, Node
from space.joint import JointSpace

logger = logging.getLogger("shoebox.search.propose")

GUIDED_BITS = "guided_bits"  # attribute of a study: the sensitivities that bits were proposed by
PROPOSAL = "proposal"  # attribute of a trial: its number among those proposed
_DRAWS = 300
_ALIKE = 0.02  # random cells are so near to the derived one's bytes, if one of the draws is


class ProposeSpec(BaseModel):
    """Section `search.propose` of a study file: students to try first.

    Attributes:
        differentiable: search them by a supernet (`runners.differentiable.DifferentiableSpec`).
        random_cells: so many cells at random, of about the bytes of the first derived one.
        no_cell: a student without cells, at most as large; space.conv.depth has to allow 0.
        guided_bits: students of the first family with open bits, whose bits follow the sensitivity of its parts: a
            number of byte budgets, or `search.guided_bits.GuidedBitsSpec`. The first three are about family `conv`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    differentiable: DifferentiableSpec | None = None
    random_cells: int = Field(default=0, ge=0, le=1000)
    no_cell: bool = False
    guided_bits: GuidedBits | None = None

    @property
    def about_cells(self) -> bool:
        """Whether cells are proposed."""
        return self.differentiable is not None or self.random_cells > 0 or self.no_cell

    def misfit(self, space: Any, classifies: bool) -> str | None:
        """What keeps a study from using the section; None if nothing does.

        Args:
            space: its section `space`.
            classifies: whether it has one task, which classifies texts.
        """
        if self.guided_bits is not None and not families_with_bits(JointSpace(space)):
            return "search.propose.guided_bits needs bits to choose: give a dimension of bits in space more values"
        return self._misfit_of_cells(space.families, space.conv, classifies) if self.about_cells else None

    def _misfit_of_cells(self, families: tuple[str, ...], dimensions: ConvDimensions, classifies: bool) -> str | None:
        if "conv" not in families:
            return "search.propose is about cells: add conv to space.families"
        if self.differentiable is not None and not classifies:
            return "search.propose.differentiable is for one task that classifies texts"
        if self.no_cell and not contains(dimensions.depth, 0):
            return "search.propose.no_cell needs 0 among space.conv.depth"
        if max(ends(dimensions.depth)) == 0:
            return "search.propose needs a depth above 0 in space.conv.depth"
        return None


class Proposals(NamedTuple):
    """Students to try, each with who proposed it, and what is known of the differentiable search."""

    students: list[tuple[str, ConvConfig]]
    recipe: Recipe
    report: dict[str, Any]


def enqueue_proposals(study: optuna.Study, spec: ProposeSpec, premises: Premises) -> int:
    """Queue all proposals of a study that has not queued them yet; how many were queued. See `enqueue_cells`."""
    count = enqueue_cells(study, spec, premises) if spec.about_cells else 0
    if spec.guided_bits is not None and GUIDED_BITS not in study.user_attrs:
        trials = study.get_trials(deepcopy=False)
        guided = propose_bits(spec.guided_bits, premises, trials)
        count += _enqueue(study, [(PROPOSER, config) for config in guided.students], guided.recipe, premises.space)
        study.set_user_attr(GUIDED_BITS, guided.report)
    return count


def _enqueue(
    study: optuna.Study, students: Sequence[tuple[str, StudentConfig]], recipe: Recipe, space: JointSpace
) -> int:
    """Queue what is not queued yet of these students, each with who proposed it."""
    trials = study.get_trials(deepcopy=False)
    queued = {(trial.user_attrs.get(PROPOSED), trial.user_attrs.get(PROPOSAL)) for trial in trials}
    count = 0
    for number, (proposer, config) in enumerate(students):
        if (proposer, number) not in queued:
            attributes = {PROPOSED: proposer, PROPOSAL: number}
            study.enqueue_trial(space.to_params(config, recipe), user_attrs=attributes)
            count += 1
    return count


def enqueue_cells(study: optuna.Study, spec: ProposeSpec, premises: Premises) -> int:
    """Queue the proposals of a study that has not queued them yet; a killed search queues what it had not.

    Returns:
        How many trials were queued.

    Raises:
        InputError: no student of the space holds the limits with the largest cell.
    """
    if PROPOSED in study.user_attrs:
        return 0
    found = propose_cells(spec, premises)
    count = _enqueue(study, found.students, found.recipe, premises.space)
    study.set_user_attr(PROPOSED, found.report)
    return count


def propose_cells(spec: ProposeSpec, premises: Premises) -> Proposals:
    """The students to try first; the same seed gives the same ones."""
    generator = np.random.default_rng([premises.seed, 1])
    size, dimensions = premises.size, premises.space.spec.conv
    base, recipe = _base(premises, generator)
    students: list[tuple[str, ConvConfig]] = []
    report: dict[str, Any] = {}
    if spec.differentiable is not None:
        from runners.differentiable.search import derive_cells  # takes torch along

        depths = [depth for depth in range(1, base.depth + 1) if contains(dimensions.depth, depth)]
        derived = derive_cells(
            premises.plan,
            premises.prepared,
            base,
            recipe,
            ends(dimensions.operation),  # type: ignore[arg-type]
            depths,
            spec.differentiable,
            premises.predict,
            premises.seed,
        )
        for cell in derived.cells:
            students.append(("differentiable", _with_cell(base, cell.depth, cell.nodes)))
        report = {
            "seconds": round(derived.seconds, 1),
            "steps": derived.steps,
            "entropies": [round(value, 4) for value in derived.entropies],
            "depth_entropy": round(derived.depth_entropy, 4),
            "shares": {name: round(share, 4) for name, share in derived.shares.items()},
            "collapse": derived.collapse,
        }
        logger.info("Derived in %.0f s: %s.", derived.seconds, students[0][1].summary())
    target = size(students[0][1]) if students else None
    for _ in range(spec.random_cells):
        students.append(("random cells", _random_cell(base, premises, target, generator)))
    if spec.no_cell:
        students.append(("no cell", _without_cells(premises, target, generator)))
    for proposer, config in students:
        logger.info("To be tried (%s), %d bytes: %s", proposer, size(config), config.summary())
    return Proposals(students, recipe, report)


def _draw(space: JointSpace, generator: np.random.Generator, depth: int | None = None) -> tuple[ConvConfig, Recipe]:
    """A student of the family, of the depth given."""
    draw = draw_from(generator)
    fixed: dict[str, Any] = {"family": "conv"} if depth is None else {"family": "conv", "conv.depth": depth}

    def choose(name: str, dimension: Choices | Range) -> Any:
        return fixed.get(name, draw(name, dimension))

    config, recipe = space.from_params(space.choose(choose))
    if not isinstance(config, ConvConfig):
        raise ValueError(f"the space gave a student of the family {config.family}")
    return config, recipe


def _base(premises: Premises, generator: np.random.Generator) -> tuple[ConvConfig, Recipe]:
    """The largest of some draws that keeps the limits with the largest cell at the largest depth."""
    dimensions: ConvDimensions = premises.space.spec.conv
    deepest = int(max(ends(dimensions.depth)))
    edge = Edge(input="cell-1", operation=ends(dimensions.operation)[-1])  # type: ignore[arg-type]
    nodes = (Node(left=edge, right=edge),) * NODES
    found: tuple[int, ConvConfig, Recipe] | None = None
    for _ in range(_DRAWS):
        config, recipe = _draw(premises.space, generator, depth=deepest)
        full = _with_cell(config, deepest, nodes)
        total = premises.size(full)
        if (found is None or total > found[0]) and premises.keeps_limits(full):
            found = (total, full, recipe)
    if found is None:
        raise InputError(
            f"search.propose: none of {_DRAWS} draws keeps the limits with {deepest} cells of the largest operation.",
            "Narrow space.conv to smaller depths, widths or operations.",
        )
    return found[1:]


def _random_cell(
    base: ConvConfig, premises: Premises, target: int | None, generator: np.random.Generator
) -> ConvConfig:
    nearest: tuple[float, ConvConfig] | None = None
    for _ in range(_DRAWS):
        drawn, _ = _draw(premises.space, generator)
        if not drawn.executed_cells():
            continue
        config = _with_cell(base, drawn.depth, drawn.nodes)
        distance = 0.0 if target is None else abs(premises.size(config) / target - 1)
        if nearest is None or distance < nearest[0]:
            nearest = (distance, config)
        if distance <= _ALIKE:
            break
    if nearest is None:
        raise InputError("search.propose.random_cells: no draw of space.conv.operation gives a cell.")
    return nearest[1]


def _without_cells(premises: Premises, target: int | None, generator: np.random.Generator) -> ConvConfig:
    """The largest of some draws that is no larger than the derived student, or the limit; else the smallest."""
    most = premises.limits.deployed_bytes if target is None else target
    drawn = [_draw(premises.space, generator, depth=0)[0] for _ in range(_DRAWS)]
    sized = sorted(((premises.size(config), index) for index, config in enumerate(drawn)), key=lambda one: one[0])
    fitting = [index for total, index in sized if total <= most]
    return drawn[fitting[-1] if fitting else sized[0][1]]


def _with_cell(config: ConvConfig, depth: int, nodes: tuple[Node, ...]) -> ConvConfig:
    return config.model_copy(update={"depth": depth, "nodes": nodes})
