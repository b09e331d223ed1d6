from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.cluster.manifest import Hosts, ray_start, rayjob
from search.study_file import StudyFile, load_study_file
from space.errors import InputError

Shoebox = Callable[..., subprocess.CompletedProcess[str]]


# What the API server of Kubernetes refuses, or takes for something that nobody means.
MEMORIES = ["much", "8K", "8m", "8", "0Gi", "8gi", "8 Gi", "8mi", "-8Gi", "\u0668Gi", ""]
FOLDERS = ["here", "/", "//", "/a/..", "/a:b", "/shoebox-study", "/shoebox-study/", "//shoebox-study/a", "/a\nb"]
NAMES = ["", "My_Claim", "-a", "a-", "a..b", "a" * 254, "a\n"]


@pytest.fixture
def toy(toy_file: Path) -> StudyFile:
    return load_study_file(toy_file, {"name": "My_Toy.v2"})


def by_kind(text: str) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_a_rayjob_has_what_kuberay_requires(toy: StudyFile) -> None:
    found = by_kind(rayjob(toy, Hosts(image="registry/shoebox:1", count=3, cpus=8, gpus=1)))
    assert set(found) == {"ConfigMap", "PersistentVolumeClaim", "RayJob"}
    job = found["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert job["metadata"]["name"].startswith("shoebox-my-toy-v2-")
    spec = job["spec"]
    assert shlex.split(spec["entrypoint"]) == [*["shoebox", "search", "/shoebox-study/study.yaml", "--address", "auto"]]
    cluster = spec["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (3, 3, 3)
    names = {document["metadata"]["name"] for document in found.values()}
    for pod in (cluster["headGroupSpec"]["template"]["spec"], group["template"]["spec"]):
        (container,) = pod["containers"]
        assert container["image"] == "registry/shoebox:1"
        # Every mount has a volume, and every volume names something that the file makes.
        volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] in names
        assert volumes["study"]["configMap"]["name"] in names
        environment = {entry["name"]: entry for entry in container["env"]}
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert environment["SHOEBOX_CACHE"]["value"].startswith(mounts[0])
        assert environment["SHOEBOX_STORAGE"]["valueFrom"]["secretKeyRef"] == {"name": "shoebox-storage", "key": "url"}
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "8Gi", "nvidia.com/gpu": "1"}


def test_studies_share_no_name_on_kubernetes(toy: StudyFile) -> None:
    long = "banking77-transformers-of-all-depths-seed"
    studies = [
        "sst2",
        "SST2",
        "sst2-a",
        "sst2_a",
        "sst2--a",
        "v1.5",
        "v1-5",
        f"{long}-1",
        f"{long}-2",
        "a" * 39,
        "a" * 40,
    ]
    names = []
    for study in studies:
        found = by_kind(rayjob(toy.model_copy(update={"name": study}), Hosts(image="x")))
        (name,) = {document["metadata"]["name"] for document in found.values()}
        assert re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
        assert len(name) <= 47
        names.append(name)
    assert len(set(names)) == len(studies)
    assert (names[0], names[2], names[6]) == ("shoebox-sst2", "shoebox-sst2-a", "shoebox-v1-5")
    assert names[3] == "shoebox-sst2-a-" + hashlib.sha256(b"sst2_a").hexdigest()[:6]


def test_the_study_in_it_is_the_study(toy: StudyFile) -> None:
    text = by_kind(rayjob(toy, Hosts(image="x")))["ConfigMap"]["data"]["study.yaml"]
    assert StudyFile.model_validate(yaml.safe_load(text)) == toy


def test_a_claim_of_the_users_own_is_not_made_again(toy: StudyFile) -> None:
    found = by_kind(rayjob(toy, Hosts(image="x", claim="mine"), resume=True))
    assert "PersistentVolumeClaim" not in found
    assert "--resume" in found["RayJob"]["spec"]["entrypoint"]
    assert '"claimName": "mine"' in json.dumps(found)


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        (Hosts(), "--image"),
        *((Hosts(image=image), "--image") for image in ("my image", "x\n", " ")),
        *((Hosts(image="x", memory=memory), "--memory") for memory in MEMORIES),
        *((Hosts(image="x", shared=shared), "--shared") for shared in FOLDERS),
        *((Hosts(image="x", claim=name), "--claim") for name in NAMES),
        *((Hosts(image="x", secret=name), "--secret") for name in NAMES),
    ],
)
def test_what_cannot_be_is_refused(toy: StudyFile, hosts: Hosts, said: str) -> None:
    with pytest.raises(InputError, match=said):
        rayjob(toy, hosts)


@pytest.mark.parametrize("memory", ["8Gi", "512Mi", "0.5Gi", "16G", "8000000k", "8388608Ki", "8589934592"])
def test_amounts_of_memory_are_those_of_kubernetes(toy: StudyFile, memory: str) -> None:
    hosts = Hosts(image="x", memory=memory, shared="/shoebox-study-2", claim="a.b-c", secret="0")
    assert f"memory: {memory}" in rayjob(toy, hosts).replace("'", "")


@pytest.mark.parametrize("resume", [(), ("--resume",)])
@pytest.mark.parametrize("kind", ["rayjob", "ray-start"])
def test_options_are_named_to_the_search_so_that_a_resume_keeps_them(
    toy_file: Path, shoebox: Shoebox, tmp_path: Path, kind: str, resume: tuple[str, ...]
) -> None:
    target = tmp_path / "job"
    given = ["--kind", kind, *(["--image", "x"] if kind == "rayjob" else []), "--trials", "20", "--data", "my texts"]
    done = shoebox("cluster", "manifest", str(toy_file), *given, "-o", str(target), *resume)
    assert done.returncode == 0, done.stderr
    text = target.read_text()
    if kind == "rayjob":
        line = by_kind(text)["RayJob"]["spec"]["entrypoint"]
    else:
        (line,) = (line for line in text.splitlines() if "exec shoebox search" in line)
    words = shlex.split(line)
    assert words[words.index("--trials") + 1] == "20"
    assert words[words.index("--data") + 1] == str(Path("my texts").absolute())


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_password_is_not_written(toy_file: Path, shoebox: Shoebox, tmp_path: Path, resume: tuple[str, ...]) -> None:
    content = yaml.safe_load(toy_file.read_text())
    content["search"]["bundles"] = "s3://me:s3cret@bucket/x"
    toy_file.write_text(yaml.safe_dump(content))
    target = tmp_path / "cluster"
    done = shoebox("cluster", "manifest", str(toy_file), "--image", "x", "-o", str(target), *resume)
    assert (done.returncode, "should hold no password" in done.stderr) == (2, True)
    assert "s3cret" not in done.stderr
    assert not target.exists()


@pytest.mark.parametrize("name", ["1e3", "1", "0.5", "1e-3", "0o17", "0b1", "0x1f", "y", "no", "null"])
def test_names_that_look_like_something_else_are_quoted(toy: StudyFile, name: str) -> None:
    text = rayjob(toy, Hosts(image="x", claim=name, secret=name))
    assert text.count(f"claimName: '{name}'") == text.count("claimName:") == 2
    assert text.count(f"name: '{name}'") == 2


def test_a_script_may_share_what_no_pod_can_mount(toy: StudyFile) -> None:
    assert "/mnt/a:b" in ray_start(toy, Hosts(shared="/mnt/a:b"))
    with pytest.raises(InputError, match="--shared"):
        ray_start(toy, Hosts(shared="/"))


def test_a_trial_that_fits_no_host_is_refused(toy: StudyFile) -> None:
    greedy = toy.model_copy(update={"search": toy.search.model_copy(update={"cpus_per_trial": 8.0})})
    with pytest.raises(InputError, match="needs 8 CPUs"):
        ray_start(greedy, Hosts(cpus=4))


def test_the_script_starts_ray_and_searches(toy: StudyFile, tmp_path: Path) -> None:
    """Run for real, with `ray` and `shoebox` replaced by what prints how they are called."""
    script = tmp_path / "cluster.sh"
    shared = tmp_path / "shared folder"
    shared.mkdir()
    odd = toy.model_copy(update={"description": "it's\n$(touch broken) END_OF_STUDY"})
    script.write_text(ray_start(odd, Hosts(cpus=6, gpus=2, shared=str(shared))))
    subprocess.run(["bash", "-n", script], check=True)
    for name in ("ray", "shoebox"):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\necho {name} "$@" $SHOEBOX_HOME\n')
        tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SHOEBOX_STORAGE": ""}

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(script), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={**environment, **more}, cwd=tmp_path
        )

    head = call("head").stdout
    assert "ray start --head --port=6379 --num-cpus=6 --num-gpus=2" in head
    assert f"{shared}/home" in head
    token = shared / ".ray-token"
    assert len(token.read_text()) == 64
    assert token.stat().st_mode & 0o077 == 0
    assert "--address=10.0.0.1:6379 --num-cpus=6" in call("worker", "10.0.0.1").stdout
    assert call("worker").returncode != 0
    assert "SHOEBOX_STORAGE" in call("search").stderr
    searched = call("search", "--resume", SHOEBOX_STORAGE="postgresql://host/name").stdout
    assert f"shoebox search {shared}/My_Toy.v2.yaml --address auto --resume" in searched
    assert load_study_file(shared / "My_Toy.v2.yaml") == odd
    assert not (tmp_path / "broken").exists()
    assert call().returncode == 2
    assert "worker ADDRESS" in call().stderr


def test_the_command_writes_a_file_once(toy_file: Path, shoebox: Shoebox, tmp_path: Path) -> None:
    target = str(tmp_path / "cluster.sh")
    command = ["cluster", "manifest", str(toy_file), "--kind", "ray-start", "-o", target]
    assert shoebox(*command).returncode == 0
    again = shoebox(*command)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_columns_and_hours_are_entered_in_the_study(toy_file: Path, shoebox: Shoebox, tmp_path: Path) -> None:
    target = tmp_path / "cluster.sh"
    command = ["cluster", "manifest", str(toy_file), "--kind", "ray-start", "-o", str(target)]
    assert shoebox(*command, "--where", "lang=en", "--label", "kind", "--hours", "2").returncode == 0
    for line in ("  label: kind", "    lang: en", "  hours: 2.0"):
        assert line in target.read_text().splitlines()


def test_what_a_script_has_no_use_for_is_refused(toy_file: Path, shoebox: Shoebox, tmp_path: Path) -> None:
    command = ["cluster", "manifest", str(toy_file), "--kind", "ray-start", "-o", str(tmp_path / "cluster.sh")]
    done = shoebox(*command, "--image", "x", "--hosts", "2")
    assert (done.returncode, "no use for --image, --hosts." in done.stderr) == (2, True)
    assert not (tmp_path / "cluster.sh").exists()


def test_where_the_file_goes(toy_file: Path, shoebox: Shoebox, tmp_path: Path) -> None:
    command = ["cluster", "manifest", str(toy_file), "--image", "x", "-o"]
    done = shoebox(*command, str(tmp_path))
    assert (done.returncode, f"{tmp_path} is a folder. Name a file" in done.stderr) == (2, True)
    target = tmp_path / "my job.yaml"
    assert f"kubectl apply -f '{target}'" in shoebox(*command, str(target)).stdout


@pytest.mark.parametrize("kind", ["rayjob", "ray-start"])
def test_data_is_named_as_the_hosts_see_it(shoebox: Shoebox, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "cluster"
    command = ["cluster", "manifest", "amazon", "--kind", kind, "-o", str(target)]
    command += ["--image", "x"] if kind == "rayjob" else []
    done = shoebox(*command)
    assert done.returncode == 2
    assert "--data DIR" in done.stderr
    assert not target.exists()
    # The storage knows the options that a study was started with.
    assert shoebox(*command, "--resume").returncode == 0
    assert "name: amazon" in target.read_text()
    target.unlink()
    assert shoebox(*command, "--data", "/shoebox/reviews").returncode == 0
    assert "path: /shoebox/reviews" in target.read_text()
