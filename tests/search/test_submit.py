"""What a cluster is sent; the job itself runs in `test_cluster_hosts`."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from search.cluster import jobs
from search.study_file import load_study_file
from space.errors import InputError

Shoebox = Callable[..., subprocess.CompletedProcess[str]]


def test_only_the_study_file_is_sent(toy_file: Path, tmp_path: Path) -> None:
    (toy_file.parent / "private.csv").write_text("text")
    sent = tmp_path / "sent"
    sent.mkdir()
    name = jobs.job_folder(sent, str(toy_file), {"trials": 9, "name": "other", "seed": None})
    assert [path.name for path in sent.iterdir()] == [name]
    assert load_study_file(sent / name) == load_study_file(toy_file, {"trials": 9, "name": "other"})
    assert jobs.search_command(name, True)[1:] == ["search", "study.yaml", "--address", "auto", "--resume"]


def test_options_are_named_to_the_search_so_that_a_resume_keeps_them(toy_file: Path) -> None:
    """A job is sent the file with its options entered; the file that a resume sends has only its own."""
    given = {"trials": 9, "name": "other", "seed": None, "device": "phone.yaml"}
    command = jobs.search_command("study.yaml", False, given)
    assert command[1:3] == ["search", "study.yaml"]
    assert command[3:7] == ["--trials", "9", "--device", str(Path("phone.yaml").absolute())]
    assert command[7:] == ["--address", "auto"]
    command = jobs.search_command("study.yaml", False, {"where": "lang=en", "hours": 2.5}, ["old", "older"])
    assert command[3:7] == ["--where", "lang=en", "--hours", "2.5"]
    assert command[7:11] == ["--warm-start", "old", "--warm-start", "older"]


def test_columns_and_hours_are_entered_in_the_file(toy_file: Path, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.mkdir()
    given = {"text": "one, two", "label": "kind", "where": "lang=en", "hours": 2.0}
    file = load_study_file(sent / jobs.job_folder(sent, str(toy_file), given))
    assert file.task is not None
    assert (file.task.text, file.task.label, file.task.where) == (("one", "two"), "kind", {"lang": "en"})
    assert file.search.hours == 2


def test_a_shipped_study_needs_nothing(tmp_path: Path) -> None:
    assert jobs.job_folder(tmp_path, "quickstart", {}) == "quickstart"
    assert not list(tmp_path.iterdir())
    assert jobs.job_folder(tmp_path, "quickstart", {"trials": 3}) == jobs.STUDY


def test_data_lies_where_the_hosts_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shipped study may name a folder that it does not bring; this machine need not have it."""
    with pytest.raises(InputError, match=r"'amazon' reads amazon_blitzer, .* --data DIR"):
        jobs.job_folder(tmp_path, "amazon", {})
    given = {"data": "/hosts/reviews"}
    assert jobs.job_folder(tmp_path, "amazon", given) == jobs.STUDY
    task = load_study_file(tmp_path / jobs.STUDY).task
    assert task is not None
    assert task.data.path == "/hosts/reviews"
    assert jobs.search_command(jobs.STUDY, False, given)[3:5] == ["--data", "/hosts/reviews"]
    monkeypatch.chdir(tmp_path)
    assert jobs.search_command(jobs.STUDY, False, {"data": "reviews"})[4] == str(tmp_path / "reviews")
    # The storage knows the options that the study was started with.
    assert jobs.job_folder(tmp_path, "amazon", {}, resume=True) == "amazon"
    several = tmp_path / "several"
    several.mkdir()
    jobs.job_folder(several, "multi-task", given)
    tasks = load_study_file(several / jobs.STUDY).tasks
    assert tasks is not None
    assert {task.data.path for task in tasks.values()} == {f"/hosts/reviews/{name}" for name in tasks}
    with pytest.raises(InputError, match="--data: there is no folder /hosts/reviews"):
        load_study_file("amazon", given)


def test_a_file_that_an_option_had_made_whole_is_sent_to_be_resumed(toy_file: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(toy_file.read_text())
    del content["task"]["data"]
    content["device"]["profile"] = "phone.yaml"
    toy_file.write_text(yaml.safe_dump(content))
    sent = tmp_path / "sent"
    sent.mkdir()
    with pytest.raises(InputError, match=r"task\.data is missing"):
        jobs.job_folder(sent, str(toy_file), {})
    assert jobs.job_folder(sent, str(toy_file), {"name": "other", "trials": 9}, resume=True) == jobs.STUDY
    found = yaml.safe_load((sent / jobs.STUDY).read_text())
    assert (found["name"], found["search"]["trials"]) == ("other", 9)
    assert found["device"]["profile"] == str(toy_file.parent / "phone.yaml")
    assert "data" not in found["task"]
    for name, said in ((None, "name is missing"), ("a/b", "name 'a/b' is none of a study")):
        toy_file.write_text(yaml.safe_dump({**content, "name": name}))
        with pytest.raises(InputError, match=said):
            jobs.job_folder(sent, str(toy_file), {}, resume=True)


def test_the_storage_goes_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://me:s3cret@host/name"
    assert jobs.job_environment(url, "/mnt/all/") == {
        "SHOEBOX_STORAGE": url,
        "SHOEBOX_HOME": "/mnt/all/home",
        "SHOEBOX_CACHE": "/mnt/all/cache",
    }
    monkeypatch.setenv("SHOEBOX_STORAGE", url)
    assert jobs.job_environment(None, None) == {"SHOEBOX_STORAGE": url}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--address", "head:8265"], "http://"),
        (["--address", "http://127.0.0.1:1", "--shared", "here"], "--shared"),
        (["--address", "http://127.0.0.1:1", "--shared", "/"], "--shared / is the root of every host"),
        (["--address", "http://127.0.0.1:1", "--storage", "me:s3cret@host"], "not a database URL"),
        (["--address", "http://127.0.0.1:1", "--bundles", "s3://me:s3cret@bucket/x"], "should hold no password"),
        (["--address", "http://127.0.0.1:1", "--bundles", "s3://[x"], "search.bundles, s3://[x/toy, is no URL"),
        (["--address", "http://127.0.0.1:1", "--bundles", "s3://me:s3cret@bucket/x", "--resume"], "no password"),
    ],
)
def test_what_cannot_be_is_refused(toy_file: Path, shoebox: Shoebox, arguments: list[str], said: str) -> None:
    done = shoebox("submit", str(toy_file), *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "s3cret" not in done.stderr


def test_without_ray_jobs_the_extra_is_named(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"shoebox\[cluster\]"):
        jobs.submit(str(toy_file), "http://127.0.0.1:1")
