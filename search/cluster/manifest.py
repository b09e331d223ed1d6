"""Descriptions of a Ray cluster for one study: a KubeRay RayJob, or a script for hosts without Kubernetes."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import yaml

from search.cluster.jobs import STUDY, check_data, check_shared, plain_path, search_command, shared_folders, study_text
from search.resuming import check_place
from search.storage import STORAGE
from search.study_file import ResumedFile, StudyFile
from space.errors import InputError

STUDY_FOLDER = "/shoebox-study"  # where the study file is in a pod
LONGEST_NAME = 47  # of a RayJob
LEAST_MEMORY = 2**20  # bytes; what is less was meant in other units
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([EPTGM]i?|Ki|k)?")
_NO_TEXT = re.compile(r"[-+]?[0-9_.]+([eE][-+]?[0-9]+)?|0[ob][0-9]+|[yYnN]")
_PART = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_OBJECT = re.compile(rf"{_PART}(\.{_PART})*")  # RFC 1123, which Kubernetes names its objects by


@dataclass(frozen=True)
class Hosts:
    """What a cluster consists of.

    Attributes:
        image: with this Shoebox and Ray in it, and `shoebox` on the path (RayJob only).
        count: hosts that run trials; the head runs none.
        cpus, gpus: of each.
        memory: of each, as Kubernetes writes it.
        shared: folder that all hosts share, for results and cache.
        claim: PersistentVolumeClaim with the shared folder; by default one is described too.
        secret: Kubernetes secret whose key `url` is the URL of the storage.
    """

    image: str = ""
    count: int = 2
    cpus: int = 4
    gpus: int = 0
    memory: str = "8Gi"
    shared: str = "/shoebox"
    claim: str | None = None
    secret: str = "shoebox-storage"


def check(file: StudyFile | ResumedFile, hosts: Hosts) -> None:
    """Whether trials of a study fit the hosts; of one that is resumed, the hosts alone are checked.

    Raises:
        InputError: they do not, or a field is no value of its kind; data at a relative path; a password in the URL for
            bundles.
    """
    if isinstance(file, StudyFile):
        _check_fit(file, hosts)
    if _bytes(hosts.memory) < LEAST_MEMORY:
        raise InputError(f"--memory: {hosts.memory!r} is no amount of memory for a host.", "Write it as in 8Gi.")
    check_shared(hosts.shared)
    check_place(file.bundles)


def _check_fit(file: StudyFile, hosts: Hosts) -> None:
    check_data(file)
    if hosts.cpus < file.search.cpus_per_trial or hosts.gpus < file.search.gpus_per_trial:
        raise InputError(
            f"A trial of study {file.name!r} needs {file.search.cpus_per_trial:g} CPUs and "
            f"{file.search.gpus_per_trial:g} GPUs, but a host has {hosts.cpus} and {hosts.gpus}.",
            "Raise --cpus or --gpus, or lower search.cpus_per_trial or search.gpus_per_trial.",
        )
    if file.device.latency == "native":
        raise InputError(
            "device.latency: native times on one machine, but a cluster has several.", "Use emulated or estimated."
        )


def _check_objects(hosts: Hosts) -> None:
    """Refuse what Kubernetes would refuse of a RayJob.

    Raises:
        InputError: a name is none of Kubernetes' or of an image, or the shared folder cannot be mounted.
    """
    for option, value in (("--claim", hosts.claim), ("--secret", hosts.secret)):
        if value is not None and (len(value) > 253 or not _OBJECT.fullmatch(value)):
            raise InputError(
                f"{option}: {value!r} is no name of a Kubernetes object.",
                "Those have at most 253 of a-z, 0-9, - and ., and begin and end with a letter or digit.",
            )
    if hosts.image and not re.fullmatch(r"[!-~]+", hosts.image):
        raise InputError(f"--image: {hosts.image!r} is no name of an image.", "Write it as in REGISTRY/NAME:TAG.")
    if ":" in hosts.shared:
        raise InputError(f"--shared {hosts.shared}: pods mount no folder with a colon.", "Name another one.")
    if f"{plain_path(hosts.shared)}/".startswith(f"{STUDY_FOLDER}/"):
        raise InputError(f"--shared {hosts.shared}: in {STUDY_FOLDER} is the study file.", "Name another folder.")


def _bytes(quantity: str) -> float:
    """An amount as Kubernetes writes it; 0 if it is none."""
    found = _QUANTITY.fullmatch(quantity)
    if found is None:
        return 0
    number, suffix = found[1], found[2] or ""
    power = " KMGTPE".index(suffix[:1].upper()) if suffix else 0
    return float(number) * (1024 if suffix.endswith("i") else 1000) ** power


class _Dumper(yaml.SafeDumper):
    """Quotes texts that Kubernetes would read as numbers or truth values: it knows more of both than PyYAML does."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _NO_TEXT.fullmatch(text) else None)


_Dumper.add_representer(str, _represent_text)


def rayjob(
    file: StudyFile | ResumedFile, hosts: Hosts, resume: bool = False, overrides: Mapping[str, Any] | None = None
) -> str:
    """A KubeRay RayJob (ray.io/v1) with what it needs: the study as a ConfigMap, a claim for the shared folder.

    The storage's URL comes from a secret, which the text says how to make. The search's command line
    names the `overrides` that the file was written with once more, as of `search_command`.

    Raises:
        InputError: trials do not fit the hosts; no image; Kubernetes would refuse a name or a folder.
    """
    check(file, hosts)
    _check_objects(hosts)
    if not hosts.image:
        raise InputError("A RayJob needs an image with Shoebox in it.", "Name it: --image REGISTRY/NAME:TAG.")
    name = _kubernetes_name(file.name)
    claim = hosts.claim or name
    documents: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {STUDY: study_text(file)}}
    ]
    if hosts.claim is None:
        claimed = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "50Gi"}}}
        documents.append(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim}, "spec": claimed}
        )
    each = {"cpu": str(hosts.cpus), "memory": hosts.memory}
    group = {
        "groupName": "trials",
        "replicas": hosts.count,
        "minReplicas": hosts.count,
        "maxReplicas": hosts.count,
        "rayStartParams": {},
        "template": _pod("ray-worker", name, claim, hosts, each, hosts.gpus),
    }
    head = {
        # No trials beside the driver: it must answer all the others.
        "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
        "template": _pod("ray-head", name, claim, hosts, {"cpu": "2", "memory": "8Gi"}, 0),
    }
    spec = {
        "entrypoint": shlex.join(search_command(f"{STUDY_FOLDER}/{STUDY}", resume, overrides)),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "backoffLimit": 0,
        "rayClusterSpec": {
            "rayVersion": metadata.version("ray"),
            "headGroupSpec": head,
            "workerGroupSpecs": [group],
        },
    }
    documents.append({"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": name}, "spec": spec})
    notes = [
        f"Study {file.name} on a Ray cluster of KubeRay. Before `kubectl apply -f` of this file:",
        f"  kubectl create secret generic {hosts.secret} --from-literal=url=postgresql://USER:PASSWORD@HOST/NAME",
        f"The claim {claim} has to let several pods write (ReadWriteMany). Data that the study names by a path has to",
        f"be on it, under {hosts.shared}. Watch with: kubectl get rayjob {name}. To go on after a stop: --resume.",
    ]
    body = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return "".join(f"# {line}\n" for line in notes) + body


def _pod(container: str, study: str, claim: str, hosts: Hosts, resources: dict[str, str], gpus: int) -> dict[str, Any]:
    # Requests that equal the limits: Ray counts the limits, and a pod that has less is slower than Ray believes.
    amounts = {**resources, "nvidia.com/gpu": str(gpus)} if gpus else resources
    url = {"name": STORAGE, "valueFrom": {"secretKeyRef": {"name": hosts.secret, "key": "url"}}}
    folders = [{"name": key, "value": value} for key, value in shared_folders(hosts.shared).items()]
    return {
        "spec": {
            "containers": [
                {
                    "name": container,
                    "image": hosts.image,
                    "env": [*folders, url],
                    "resources": {"requests": dict(amounts), "limits": dict(amounts)},
                    "volumeMounts": [
                        {"name": "shared", "mountPath": hosts.shared},
                        {"name": "study", "mountPath": STUDY_FOLDER, "readOnly": True},
                    ],
                }
            ],
            "volumes": [
                {"name": "shared", "persistentVolumeClaim": {"claimName": claim}},
                {"name": "study", "configMap": {"name": study}},
            ],
        }
    }


def _kubernetes_name(study: str) -> str:
    """A name that Kubernetes takes: at most 47 of a-z, 0-9 and -, since KubeRay adds to it. Each study has its own."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")
    name = f"shoebox-{cleaned}"
    if cleaned == study and len(name) <= LONGEST_NAME:
        return name
    digest = f"-{hashlib.sha256(study.encode()).hexdigest()[:6]}"  # studies that differ in what was lost
    return name[: LONGEST_NAME - len(digest)].rstrip("-") + digest


def ray_start(
    file: StudyFile | ResumedFile, hosts: Hosts, resume: bool = False, overrides: Mapping[str, Any] | None = None
) -> str:
    """A bash script that makes hosts a cluster by `ray start` and searches the study on it; `overrides` as of `rayjob`.

    Raises:
        InputError: trials do not fit the hosts.
    """
    check(file, hosts)
    text = study_text(file)
    end = "END_OF_STUDY"
    while end in text:
        end += "_"
    folders = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in shared_folders(hosts.shared).items())
    offer = f"--num-cpus={hosts.cpus}" + (f" --num-gpus={hosts.gpus}" if hosts.gpus else "")
    target = f"{hosts.shared.rstrip('/')}/{file.name}.yaml"
    return f"""#!/usr/bin/env bash
# Study {file.name} on hosts that share {hosts.shared} and have the same Shoebox and Ray.
#   on the first host:   bash THIS_FILE head
#   on every other one:  bash THIS_FILE worker ADDRESS_OF_THE_FIRST
#   on the first host:   {STORAGE}=postgresql://USER@HOST/NAME bash THIS_FILE search
#   at the end, on all:  bash THIS_FILE stop
# A password of the storage is best in ~/.pgpass of every host.
set -euo pipefail

shared={shlex.quote(hosts.shared)}
{folders}# Ray runs what anyone who reaches it sends: only who can read this file may.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$shared/.ray-token"

case "${{1:-}}" in
head)
    if [[ ! -s $RAY_AUTH_TOKEN_PATH ]]; then
        (umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \\n' >"$RAY_AUTH_TOKEN_PATH")
    fi
    exec ray start --head --port=6379 {offer} --disable-usage-stats
    ;;
worker)
    exec ray start --address="${{2:?the address of the first host is missing}}:6379" {offer}
    ;;
search)
    : "${{{STORAGE}:?set it to postgresql://USER@HOST/NAME}}"
    cat >{shlex.quote(target)} <<'{end}'
{text}{end}
    exec {shlex.join(search_command(target, resume, overrides))} "${{@:2}}"
    ;;
stop)
    exec ray stop
    ;;
*)
    sed -n '2,7s/^# //p' "$0" >&2
    exit 2
    ;;
esac
"""
