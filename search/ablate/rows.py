"""The rows of an ablation: what is removed, and what stands in its place.

Each row removes one method and leaves the rest as it is: seeds, data, steps of training, and every other dimension.
Limits are no reason to refuse a row: a student without vocabulary pruning is larger than 2 MB, and the table says so.

What is fair is not always what changes least:

- Vocabulary pruning gives away entries for bytes. Removed with the rest equal, the student gets all entries and is
  several times larger (`vocabulary-pruning`). At equal bytes, the embedding is narrowed until the whole vocabulary
  takes no more than the configuration (`vocabulary-pruning-equal-bytes`); where even the narrowest takes more, the row
  says how much. Which entries are kept is a third question (`vocabulary-score`): as many entries, those that are most
  frequent in place of those that the teacher attends to.
- Cross-distillation (EI-BERT) is the sum of two parts, each with a row of its own: the teacher is updated too
  (`mutual-updates`), and the student's projected state follows the teacher's pooled state (`hidden-state-loss`).
  Without both (`cross-distillation`) what is left is plain distillation, from labels and the teacher's fixed logits.
  The task layer stays behind the projection: a product of the two can be any head, so that nothing is lost that plain
  distillation has. Where all of the teacher is updated, `encoder-updates` leaves that to its task layer. The loss on
  the states of words (`word-state-loss`) is no part of EI-BERT and stays in all of these. `distillation` removes all
  losses on the teacher's answers; labels get weight 1, and transfer text, which has no labels, goes with them.
- Initialisation has up to three steps: the layers of the task's teacher in the place of a pre-trained encoder
  (`pre-training`), random layers under the teacher's embeddings (`layer-initialization`), and nothing from
  the teacher (`initialization`). A pre-trained encoder has the shape of its student: rows that change the shape
  (`vocabulary-pruning-equal-bytes`, `layer-sharing`) pre-train an encoder of their own, which takes long.
- Stage-wise training (`stage-wise-training`) gives way to all losses at once in as many steps; the texts that stages
  are judged on are then learned from.
- Meta-KD has two parts: the meta-teacher, in whose place a fine-tuned one of the same domains teaches (`meta-teacher`;
  the vocabulary stays as it is), and the weights of its answers, which all count alike without (`example-weighting`).
- Without transfer text (`transfer-data`), an epoch has fewer examples. The student makes more epochs instead, so that
  it takes as many steps on as many examples: else the row would measure the length of training. The text takes no part
  in the choice of vocabulary entries either. Of several tasks, all lose their text; how the steps are divided among
  them follows from what is left. Text that the recipe's `augmentation` leaves out is none: there is nothing to remove.
- Post-training quantisation (`quantization-aware-training`) trains in full precision and rounds once to the same
  grid, with scales searched for the least error since that costs neither bytes nor time: equal bytes, equal latency.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runners.plan import TaskPlan, TrialPlan
from runners.supernet.sampling import ElasticSpace
from space.config import Recipe, StudentConfig
from space.families import get_family, parse_config


@dataclass(frozen=True)
class Setup:
    """What is trained and how."""

    plan: TrialPlan
    config: StudentConfig
    recipe: Recipe


@dataclass(frozen=True)
class Facts:
    """What rows have to know beside the setup.

    Attributes:
        count_bytes: deployed bytes of a configuration.
        examples: of the train split of each task, by its name.
    """

    count_bytes: Callable[[StudentConfig], int]
    examples: Mapping[str, int]


@dataclass(frozen=True)
class Row:
    """One method to remove.

    Attributes:
        removed: the method, in words.
        remove: from the whole setup to the one without the method and what stands in its place, in words; None where
            the setup does not use the method, or starts from what has no weights for a student without it.
    """

    removed: str
    remove: Callable[[Setup, Facts], tuple[Setup, str] | None]


def changed(setup: Setup, **fields: Any) -> Setup:
    """A setup with other values of some fields of its recipe or its configuration, checked anew."""
    recipe = {name: value for name, value in fields.items() if name in Recipe.model_fields}
    config = {name: value for name, value in fields.items() if name not in recipe}
    return replace(
        setup,
        recipe=Recipe.model_validate({**setup.recipe.model_dump(), **recipe}),
        config=parse_config({**setup.config.model_dump(), **config}),
    )


def _vocabulary(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.config.vocabulary_keep == 1 or not _has_entries(setup, keep=1.0):
        return None
    return changed(setup, vocabulary_keep=1.0), "the teacher's whole vocabulary"


def _vocabulary_at_equal_bytes(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.config.vocabulary_keep == 1 or not _has_entries(setup, keep=1.0):
        return None
    most = facts.count_bytes(setup.config)
    found = changed(setup, vocabulary_keep=1.0)
    for width in range(setup.config.embedding_width, 0, -16):
        found = changed(setup, vocabulary_keep=1.0, embedding_width=width)
        if facts.count_bytes(found.config) <= most:
            break
    width, over = found.config.embedding_width, facts.count_bytes(found.config) - most
    place = f"the whole vocabulary, embedding {width} wide in place of {setup.config.embedding_width}"
    return found, place if over <= 0 else f"{place}; still {over:,} bytes more"


def _vocabulary_score(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.config.vocabulary_score == "frequency" or setup.config.vocabulary_keep == 1:
        return None
    if not _has_entries(setup, score="frequency"):
        return None
    return changed(setup, vocabulary_score="frequency"), "as many entries, the most frequent ones"


def _has_entries(setup: Setup, keep: float | None = None, score: str | None = None) -> bool:
    """Whether what the student starts from has the entries of a vocabulary of another share or score.

    A supernet has those of the study's space alone.
    """
    if setup.recipe.initialization != "supernet" or setup.plan.space is None:
        return True
    space = ElasticSpace(setup.plan.space)
    asked = keep or setup.config.vocabulary_keep
    return asked <= space.keeps[-1] and (score or setup.config.vocabulary_score) in space.scores


def _sequence(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if not prunes_tokens(setup.config):
        return None
    layers = setup.config.model_dump()["layers"]
    return changed(setup, layers=[{**layer, "token_keep": 1.0} for layer in layers]), "all tokens in every layer"


def prunes_tokens(config: StudentConfig) -> bool:
    """Whether some layer drops tokens."""
    return any(layer.get("token_keep", 1) != 1 for layer in config.model_dump().get("layers", ()))


def _cross(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.recipe.hidden_weight == 0 and setup.recipe.teacher_learning_rate == 0:
        return None
    found = changed(setup, hidden_weight=0.0, teacher_learning_rate=0.0)
    return found, "plain distillation: labels and the teacher's fixed logits"


def _mutual(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.recipe.teacher_learning_rate == 0:
        return None
    fixed = "teacher" if setup.recipe.updates_encoder else "teacher's task layer"
    return changed(setup, teacher_learning_rate=0.0), f"the {fixed} stays as it is"


def _encoder(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if not setup.recipe.updates_encoder:
        return None
    return changed(setup, teacher_update="task_layer"), "of the teacher, the task layer alone is updated"


def _hidden(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.recipe.hidden_weight == 0:
        return None
    return changed(setup, hidden_weight=0.0), "no loss on the pooled state"


def _words(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if not setup.recipe.learns_words:
        return None
    return changed(setup, state_weight=0.0, relation_weight=0.0), "no loss on the states of words"


def _distillation(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    labels = {"label_weight": 1.0, "logit_weight": 0.0, "hidden_weight": 0.0, "teacher_learning_rate": 0.0}
    found = changed(_without_transfer(setup, facts), **labels, state_weight=0.0, relation_weight=0.0)
    return None if found == setup else (found, "labels alone")


def _pretraining(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.recipe.initialization not in ("pretrained", "supernet"):
        return None
    return changed(setup, initialization="layers"), "the layers of the task's teacher"


def _layers(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.recipe.initialization not in ("layers", "pretrained", "supernet"):
        return None
    if "layers" not in get_family(setup.config.family).initializations:
        return None
    return changed(setup, initialization="teacher"), "the teacher's embeddings under random layers"


def _initialization(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.recipe.initialization == "random":
        return None
    return changed(setup, initialization="random"), "random weights"


def _stages(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.recipe.schedule == "joint":
        return None
    return changed(setup, schedule="joint"), "all losses at once, as many steps"


def _meta(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    kinds = {plan.teacher.kind for plan in setup.plan.task_plans.values()}
    if setup.recipe.teacher_kind != "meta" and (setup.recipe.teacher_kind != "study" or "meta" not in kinds):
        return None
    return changed(setup, teacher_kind="finetuned"), "a fine-tuned teacher of the same domains"


def _weighting(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.recipe.example_weighting == "none":
        return None
    return changed(setup, example_weighting="none"), "the teacher's answers to all texts count alike"


def _transfer(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    found = _without_transfer(setup, facts)
    if found == setup:
        return None
    return found, f"the train {'split' if setup.plan.task else 'splits'} alone, as many steps"


def _without_transfer(setup: Setup, facts: Facts) -> Setup:
    plan = setup.plan
    if setup.recipe.transfer_share == 0 or not any(_has_text(setup, task) for task in plan.task_plans.values()):
        return setup
    fidelity = plan.fidelity.model_copy(update={"epochs": plan.fidelity.epochs * _longer(setup, facts)})
    tasks = plan.tasks and {name: task.model_copy(update={"transfer": None}) for name, task in plan.tasks.items()}
    plan = plan.model_copy(update={"transfer": None, "tasks": tasks, "fidelity": fidelity})
    return changed(replace(setup, plan=plan), transfer_share=0.0)


def _longer(setup: Setup, facts: Facts) -> float:
    """How many epochs without transfer text have as many steps as one with it."""
    share, fidelity = setup.recipe.transfer_share, setup.plan.fidelity
    if setup.plan.task is not None:
        return 1 / (1 - share)
    # Tasks without such text keep their batches; they are counted as `runners.distill.courses.CoursePool` counts them.
    with_text = without = 0
    for name, task in setup.plan.task_plans.items():
        own = min(facts.examples[name], fidelity.train_examples or facts.examples[name])
        further = round(own * share / (1 - share)) if _has_text(setup, task) else 0
        with_text += math.ceil((own + further) / fidelity.batch_size)
        without += math.ceil(own / fidelity.batch_size)
    return with_text / without


def _has_text(setup: Setup, task: TaskPlan) -> bool:
    """Whether a student learns from transfer text of a task: its recipe may leave out all that there is."""
    return task.transfer is not None and task.transfer.serves(setup.recipe.augmentation)


def _quantization(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.recipe.quantization != "aware":
        return None
    found = changed(setup, quantization="post_training", clipping="searched")
    return found, "post-training quantisation with searched scales"


def _head_bias(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if setup.recipe.head_bias == "trained":
        return None
    return changed(setup, head_bias="trained"), "the head's bias as it was learned"


def _clipping(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    clipping = setup.recipe.clipping
    if clipping == "none" or (clipping == "auto" and 2 not in _bits(setup.config.model_dump())):
        return None
    return changed(setup, clipping="none"), "scales by the largest entry of each block"


def _bits(content: Any) -> set[int]:
    """All bit-widths of a configuration."""
    if isinstance(content, dict):
        own = {value for name, value in content.items() if name.endswith("_bits")}
        return own.union(*(_bits(value) for value in content.values()))
    return set().union(*map(_bits, content)) if isinstance(content, (list, tuple)) else set()


def _repeats(setup: Setup, facts: Facts) -> tuple[Setup, str] | None:
    if getattr(setup.config, "layer_repeats", 1) == 1:
        return None
    return changed(setup, layer_repeats=1), "each layer once"


# In the order of the table.
ROWS: dict[str, Row] = {
    "vocabulary-pruning": Row("vocabulary pruning", _vocabulary),
    "vocabulary-pruning-equal-bytes": Row("vocabulary pruning, at equal bytes", _vocabulary_at_equal_bytes),
    "vocabulary-score": Row("attention-scored vocabulary", _vocabulary_score),
    "sequence-pruning": Row("sequence pruning", _sequence),
    "layer-sharing": Row("sharing of layers", _repeats),
    "cross-distillation": Row("cross-distillation", _cross),
    "mutual-updates": Row("mutual updates", _mutual),
    "encoder-updates": Row("updates of the teacher's encoder", _encoder),
    "hidden-state-loss": Row("hidden-state loss", _hidden),
    "word-state-loss": Row("loss on states of words", _words),
    "distillation": Row("distillation", _distillation),
    "pre-training": Row("pre-training", _pretraining),
    "layer-initialization": Row("initialisation of layers", _layers),
    "initialization": Row("initialisation from the teacher", _initialization),
    "stage-wise-training": Row("stage-wise training", _stages),
    "meta-teacher": Row("the meta-teacher", _meta),
    "example-weighting": Row("weights of domain expertise", _weighting),
    "transfer-data": Row("transfer data", _transfer),
    "balanced-bias": Row("balanced bias of the head", _head_bias),
    "quantization-aware-training": Row("quantisation-aware training", _quantization),
    "clipping": Row("clipping of weights", _clipping),
}
