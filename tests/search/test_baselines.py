"""Published methods as studies."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from search.baselines import baseline_study, baselines
from search.find_file import find_file
from search.study import load_study
from search.study_file import StudyFile, load_study_file
from space.errors import InputError
from space.joint import JointSpace
from space.shape import TaskShape
from space.vocabulary import SPECIAL_TOKENS, Vocabulary

Shoebox = Callable[..., subprocess.CompletedProcess[str]]
ROOMY = {"deployed_bytes": 20_000_000}  # TinyBERT's student is above what the toy study allows


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


@pytest.mark.usefixtures("toy")
def test_the_study_in_the_storage_is_taken_whatever_is_shipped(
    make_engine: Callable[..., Any], shoebox: Shoebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.run.run_trials", lambda *_: None)
    for name in ("toy", "quickstart"):
        stored = make_engine(name=name, limits=ROOMY).file
        shoebox("baseline", "tinybert", name, "--seeds", "2")
        trained = load_study(f"{name}-tinybert").file
        assert (trained.task, trained.limits, trained.device) == (stored.task, stored.limits, stored.device)
    shoebox("baseline", "minilm", "toy", "--device", "cortex-a76", "--workers", "1")
    changed = load_study("toy-minilm").file
    assert (changed.device.profile, changed.device.tokens) == ("cortex-a76", stored.device.tokens)
    assert (changed.search.workers, changed.limits) == (1, stored.limits)


@pytest.mark.usefixtures("toy")
def test_a_stopped_run_is_resumed_with_as_many_seeds(
    shoebox: Shoebox, toy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    content = yaml.safe_load(toy_file.read_text())
    toy_file.write_text(yaml.safe_dump({**content, "limits": ROOMY}))
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr("search.run.run_trials", stopped)
        done = shoebox("baseline", "tinybert", str(toy_file), "--seeds", "2", "--device", "cortex-a76")
    assert done.returncode == 130
    assert f"Resume with: shoebox baseline tinybert {toy_file} --device cortex-a76 --resume\n" in done.stderr
    assert signal.getsignal(signal.SIGTERM) is handler
    done = shoebox("baseline", "tinybert", str(toy_file), "--device", "cortex-a76", "--resume")
    assert done.returncode == 0, done.stderr
    assert len(load_study("toy-tinybert").trials("finished")) == 2
    done = shoebox("baseline", "tinybert", str(toy_file), "--device", "cortex-a76", "--resume", "--seeds", "3")
    assert done.returncode == 0, done.stderr
    assert len(load_study("toy-tinybert").trials("finished")) == 3


@pytest.mark.usefixtures("toy")
def test_a_run_of_which_all_failed_is_no_wrong_input(
    shoebox: Shoebox, toy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(toy_file.read_text())
    toy_file.write_text(yaml.safe_dump({**content, "limits": ROOMY}))
    monkeypatch.setenv("SHOEBOX_TOY_FAIL", "0")
    done = shoebox("baseline", "tinybert", str(toy_file))
    assert (done.returncode, "shoebox: all 1 trials failed; trial 0: " in done.stderr) == (1, True)


def test_options_that_do_not_fit_the_study_are_told(
    make_engine: Callable[..., Any], shoebox: Shoebox, tmp_path: Path
) -> None:
    make_engine()
    wrong = shoebox("baseline", "tinybert", "toy", "--latency", "exact")
    assert (wrong.returncode, "--latency" in wrong.stderr, "'exact'" in wrong.stderr) == (2, True, True)
    assert "no folder" in shoebox("baseline", "tinybert", "sst2", "--data", str(tmp_path / "nowhere")).stderr
    unknown = shoebox("baseline", "tinybert", "sst3", "--device", "cortex-a76").stderr
    assert "There is no study 'sst3' in " in unknown
    assert "and no shipped one. Did you mean 'sst2'" in unknown
    assert "and no shipped one. Did you mean 'toy'" in shoebox("baseline", "tinybert", "toyy").stderr
    assert re.search(r"Known: toy, .*sst2.* A study of your own is", shoebox("baseline", "tinybert", "zzzz").stderr)


def test_columns_of_a_study_in_the_storage_can_be_named(make_engine: Callable[..., Any]) -> None:
    make_engine()
    file, study = find_file("toy", overrides={"text": "first,second", "where": "lang=en", "label": None})
    assert study is not None
    assert file.task is not None
    assert (file.task.text, file.task.where) == (("first", "second"), {"lang": "en"})
