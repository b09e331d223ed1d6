"""The section `transfer:` of a study file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from runners.transfer import TransferSpec
from search.study_file import load_study_file, shipped_studies
from space.errors import InputError


def _study(folder: Path, base: str, share: object, transfer: object) -> Path:
    study = yaml.safe_load(shipped_studies()[base])
    if transfer is not None:
        study["transfer"] = transfer
    if share is not None:
        study["space"].setdefault("recipe", {})["transfer_share"] = share
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def test_one_source_or_a_list_with_paths_from_the_files_folder(tmp_path: Path) -> None:
    one = {"sources": {"path": "reviews.txt", "sentences": True, "limit": 1000}}
    plan = load_study_file(_study(tmp_path, "sst2", [0.5, 0.75], one)).plan()
    assert plan.transfer is not None
    assert [source.path for source in plan.transfer.sources] == [str(tmp_path / "reviews.txt")]
    several = {"sources": [{"path": "/data/a"}, {"path": "b.csv"}, {"hub": "imdb", "split": "unsupervised"}]}
    found = load_study_file(_study(tmp_path, "sst2", 0.5, several)).transfer
    assert found is not None
    assert [getattr(source, "path", None) for source in found.sources] == ["/data/a", str(tmp_path / "b.csv"), None]
    pairs = load_study_file(_study(tmp_path, "mrpc", {"low": 0.0, "high": 0.8}, {"recombine": 500})).transfer
    assert pairs is not None
    assert pairs.recombine == 500


@pytest.mark.parametrize(
    ("base", "share", "transfer", "message"),
    [
        ("sst2", None, {"sources": {"path": "a.txt"}}, "transfer is never read: give space.recipe.transfer_share"),
        ("sst2", 0.5, None, "transfer_share is above 0, but there is no section transfer"),
        ("sst2", 0.5, {"recombine": 5}, "the task reads single texts: leave it out"),
        ("mrpc", 0.5, {"sources": {"path": "a.txt"}}, "the task reads pairs: name two columns, or say with recombine"),
        ("sst2", 0.5, {"sources": {"file": "a"}}, "transfer.sources.* say where the text is"),
        ("sst2", 0.5, {"sources": {"path": "a", "limits": 5}}, "limits is not a key.*Did you mean 'limit'"),
        ("sst2", 0.5, {"sources": [{"path": "a", "limit": 0}]}, "limit should be at least 1, found 0"),
        ("sst2", 0.5, {}, "should name sources of text"),
        ("sst2", 0.5, {"augment": 0}, "should name sources of text"),
        ("sst2", 0.5, {"augment": {"count": 5, "methods": "learnt"}}, "should be 'random', 'masked' or 'learned'"),
        ("sst2", 0.5, {"augment": {"count": 5, "masked_model": "m"}}, "masked_model is never used: add masked or"),
        ("sst2", 0.5, {"augment": {"count": 5, "episodes": 9}}, "episodes is never used: add learned to methods"),
        (
            "sst2",
            0.5,
            {"augment": {"count": 5, "methods": "masked", "candidates": 9}},
            "candidates is never used: add learned to methods",
        ),
        ("sst2", 0.5, {"augment": {"counts": 5}}, "counts is not a key of section 'transfer.augment'"),
        ("sst2", 0.5, {"augment": {"count": 5, "methods": ["random", "random"]}}, "names the same method twice"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, base: str, share: object, transfer: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_study_file(_study(tmp_path, base, share, transfer))


def test_recipes_choose_among_the_augmentations_that_are_made(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    augment = {"count": 50, "methods": ["random", "learned"], "masked_model": "model"}
    study = yaml.safe_load(_study(tmp_path, "sst2", 0.5, {"augment": augment}).read_text())
    study["space"]["recipe"]["augmentation"] = ["none", "random", "learned"]
    path = tmp_path / "chosen.yaml"
    path.write_text(yaml.safe_dump(study))
    file = load_study_file(path)
    assert file.transfer is not None
    assert file.transfer.augment is not None
    assert file.transfer.augment.masked_model == str(tmp_path / "model")
    assert type(file).model_validate(file.model_dump(mode="json")) == file
    study["transfer"]["augment"]["methods"] = ["learned", "masked"]
    path.write_text(yaml.safe_dump(study))
    with pytest.raises(InputError, match="augmentation names random, which is not made: add it to transfer"):
        load_study_file(path)
    # What every dumped file holds says nothing.
    study["transfer"]["augment"].update(methods=["random"], masked_model=None, candidates=4, episodes=200)
    study["space"]["recipe"]["augmentation"] = ["none", "random"]
    path.write_text(yaml.safe_dump(study))
    assert load_study_file(path).transfer is not None
    # A number is of random edits, and 0, which studies of before hold, of none.
    assert TransferSpec(augment=7) == TransferSpec(augment={"count": 7, "methods": "random"})
    assert TransferSpec(augment=0, sources={"path": "a"}).augment is None
