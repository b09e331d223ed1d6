"""Published methods as studies."""

from __future__ import annotations

import numpy as np
import pytest

from search.baselines import baseline_study, baselines
from search.study_file import StudyFile, load_study_file
from space.errors import InputError
from space.joint import JointSpace
from space.shape import TaskShape
from space.vocabulary import SPECIAL_TOKENS, Vocabulary


@pytest.mark.parametrize("name", sorted(baselines()))
@pytest.mark.parametrize("study", ["sst2", "mrpc"])
def test_a_baseline_is_one_student_within_the_limit(name: str, study: str) -> None:
    file = baseline_study(name, load_study_file(study), seeds=3)
    assert (file.name, file.search.trials, file.search.sampler) == (f"{study}-{name}", 3, "random")
    assert (file.task, file.teacher, file.limits) == tuple(
        getattr(load_study_file(study), part) for part in ("task", "teacher", "limits")
    )
    space = JointSpace(file.space)
    drawn = {str(space.draw(np.random.default_rng(seed))) for seed in range(3)}
    if baselines()[name].differentiable:
        assert file.search.propose is not None
        assert file.search.propose.differentiable is not None
        assert file.search.propose.differentiable.cells == 3
    else:
        assert len(drawn) == 1
        assert file.search.repeats == 3
    assert space.smallest_bytes(_shape(file), _vocabulary()) <= file.limits.deployed_bytes


def _shape(file: StudyFile) -> TaskShape:
    task = file.task
    assert task is not None
    return TaskShape(outputs=2, segments=len(task.text_columns), max_length=task.max_length)


def _vocabulary() -> Vocabulary:
    """As large, and its entries as long, as BERT's."""
    tokens = [*SPECIAL_TOKENS, *(f"{number:x}word"[:7] for number in range(30_517))]
    scores = np.arange(len(tokens))[::-1]
    return Vocabulary(tokens, scores.astype(float), scores)


def test_transfer_text_is_used_where_the_baseline_and_the_study_have_it() -> None:
    data = load_study_file("sst2").model_dump(mode="json")
    data["transfer"] = {"augment": 500}
    data["space"]["recipe"]["transfer_share"] = 0.5
    study = StudyFile.model_validate(data)
    taught = baseline_study("tinybert", study)
    assert taught.transfer == study.transfer
    assert JointSpace(taught.space).draw(np.random.default_rng(0))[1].transfer_share == 0.6
    assert baseline_study("minilm", study).transfer is None


def test_an_unknown_baseline_is_told_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no baseline 'tinybret'.*Did you mean 'tinybert'"):
        baseline_study("tinybret", load_study_file("sst2"))
