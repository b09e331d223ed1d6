"""What a search, or a query, of one study would find: its device, its data, its teacher, its bundles."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.doctor import Finding
from space.errors import InputError
from space.paths import expanded

if TYPE_CHECKING:
    from runners.plan import TaskPlan
    from runners.pretraining import PretrainingSpec
    from runners.task import Task
    from search.study import Study
    from search.study_file import StudyFile


def examine_study(name: str, storage: str | None, overrides: Mapping[str, Any] | None = None) -> Iterator[Finding]:
    """Look at a study's device, data, teacher and further text, and at the bundles of its front if it has one.

    Args:
        name: of a study in the storage or a shipped one, or the path of a study file.
        storage: URL; default `home()/studies.db`.
        overrides: changes to the study file, as `search.study_file.load_study_file` takes them.
    """
    from search.find_file import find_file

    try:
        file, study = find_file(name, storage, overrides)
    except InputError as error:
        yield Finding("study", "problem", error.message, error.hint)
        return
    where = "in the storage" if study else "not in the storage yet"
    yield Finding("study", "ok", f"{file.name}, {where}: {file.description or 'no description'}")
    yield _device(file)
    fix = "Say where it is by --data DIR."
    if study is None:  # one in the storage need not have the name of its file
        fix = f"Say where it is: {shlex.join(['shoebox', 'search', name, '--data', 'DIR'])}"
    for task, data in _data(file).items():
        named, plan = "" if file.task else f" {task}", file.task_plans[task]
        yield from _task(named, plan, data, fix)
        if plan.transfer is not None and plan.transfer.sources:
            yield _transfer(named, plan, data)
    if file.pretraining is not None:
        yield _pretraining(file.pretraining, file.teacher.model)
    if study is None:
        yield from _left_bundles(file)
    elif study.measurements:
        yield _bundles(study)


def _device(file: StudyFile) -> Finding:
    """Whether students can be timed as the study says; an emulator that is to be installed yet is no problem."""
    from runners.emulator import find_installation
    from runners.emulator.execution import start_once
    from runners.emulator.native import find_native
    from runners.emulator.parts import require_platform
    from runners.latency import LatencyMeter

    latency = file.device.latency
    try:
        LatencyMeter(file.device)
        if latency == "native":
            find_native()
        elif latency == "emulated":
            require_platform()
            if (installation := find_installation()) is not None:
                start_once(installation)
    except InputError as error:
        return Finding("study: device", "problem", error.message, error.hint)
    return Finding("study: device", "ok", f"{file.device.profile}, {latency}")


def _left_bundles(file: StudyFile) -> Iterator[Finding]:
    """What stands in the place of the bundles of a study that is to be started."""
    from search.resuming import check_no_bundles

    try:
        check_no_bundles(file)
    except InputError as error:
        yield Finding("study: bundles", "problem", error.message, error.hint)


def _data(file: StudyFile) -> dict[str, Task | InputError]:
    """Each task by name, or what is wrong with its data."""
    from runners.task import load_task
    from runners.task.matching import load_tasks

    specs = {name: plan.task for name, plan in file.task_plans.items()}
    found: dict[str, Task | InputError] = {}
    try:
        found.update(load_tasks(specs))
    except InputError as together:
        for name, spec in specs.items():
            try:
                found[name] = load_task(spec)
            except InputError as error:
                found[name] = error
        if not any(isinstance(data, InputError) for data in found.values()):
            return dict.fromkeys(specs, together)
    return found


def _task(task: str, plan: TaskPlan, data: Task | InputError, where: str) -> Iterator[Finding]:
    """What there is to say of a task's data and teacher; `where` tells how to say where the data is."""
    if isinstance(data, InputError):
        fix = data.hint or (where if _is_missing(plan) else None)
        yield Finding(f"study: data{task}", "problem", data.message, fix)
        yield from _untaught(task, plan)
        return
    text = f"{len(data.train):,} train and {len(data.validation):,} validation examples, {data.outputs} outputs"
    yield Finding(f"study: data{task}", "ok", text)
    yield from _teacher(task, plan, data)


def _is_missing(plan: TaskPlan) -> bool:
    """Whether the folder or a file of a task's data is not there."""
    from runners.task.spec import FilesData, FolderData

    match plan.task.data:
        case FolderData(path=path):
            return any(not any(expanded(path).glob(f"{split}[.-]*")) for split in ("train", "validation"))
        case FilesData(train=train, validation=validation):
            return not all(expanded(path).exists() for path in (train, validation))
    return False


def _transfer(task: str, plan: TaskPlan, data: Task | InputError) -> Finding:
    from runners.transfer.prepare import check_transfer
    from runners.transfer.read import count_rows

    spec, folder = plan.transfer, _local_model(plan.teacher.model)
    assert spec is not None
    masked = spec.augment and spec.augment.masked_model
    if isinstance(data, InputError) or folder is None or (masked and _local_model(masked) is None):
        return _texts(f"study: transfer{task}", lambda: count_rows(spec.sources))
    return _texts(f"study: transfer{task}", lambda: check_transfer(spec, data, plan.teacher, folder))


def _pretraining(spec: PretrainingSpec, model: str) -> Finding:
    from runners.pretraining.corpus import check_corpus, check_sources

    folder = _local_model(spec.model or model)
    if folder is None:
        return _texts("study: pretraining", lambda: check_sources(spec))
    return _texts("study: pretraining", lambda: check_corpus(spec, folder))


def _texts(subject: str, count: Callable[[], int | None]) -> Finding:
    """What a count of the rows of further text finds; None is of text that is in the cache."""
    try:
        rows = count()
    except InputError as error:
        return Finding(subject, "problem", error.message, error.hint)
    except OSError as error:
        return Finding(subject, "problem", f"{error.filename} cannot be read: {error.strerror or error}")
    return Finding(subject, "ok", "read by the teacher and cached" if rows is None else f"{rows:,} rows of text")


def _teacher(task: str, plan: TaskPlan, data: Task) -> Iterator[Finding]:
    from runners.teacher.prepare import teacher_key
    from space.paths import cache

    folder = _local_model(plan.teacher.model)
    if folder is None:
        yield from _untaught(task, plan)
        return
    try:
        key = teacher_key(plan.teacher, data, plan.teacher.max_length or data.max_length, folder)
    except OSError as error:
        yield Finding(f"study: teacher{task}", "problem", f"{folder} cannot be read: {error.strerror or error}")
        return
    except InputError as error:
        where = "" if plan.teacher.intermediate is None else "Intermediate task: "
        yield Finding(f"study: teacher{task}", "problem", f"{where}{error.message}", error.hint)
        return
    if (cache() / "teachers" / key).is_dir():
        yield Finding(f"study: teacher{task}", "ok", f"{plan.teacher.model}, fine-tuned and cached")
    else:
        text = f"{plan.teacher.model}, to be fine-tuned by the first search (minutes to an hour)"
        yield Finding(f"study: teacher{task}", "ok", text)


def _untaught(task: str, plan: TaskPlan) -> Iterator[Finding]:
    """What can be said of a teacher whose task cannot be read, or that is not on this machine."""
    if _local_model(plan.teacher.model) is not None:
        yield Finding(f"study: teacher{task}", "ok", f"{plan.teacher.model} can be loaded")
    elif expanded(plan.teacher.model).is_absolute():
        fix = "Set teacher.model to a folder with a config.json, or to a Hugging Face id."
        yield Finding(f"study: teacher{task}", "problem", f"there is no model in {plan.teacher.model}", fix)
    else:
        fix = "Search where the hub can be reached, or set teacher.model to a folder."
        text = f"{plan.teacher.model} is not on this machine; the search fetches it from the Hugging Face hub"
        yield Finding(f"study: teacher{task}", "note", text, fix)


def _local_model(model: str) -> Path | None:
    """The folder of a model as `find_model` finds it, without asking the hub."""
    from importlib.util import find_spec

    from runners.teacher.model import OFFLINE_MODEL, OFFLINE_PACKAGE, find_model

    path = expanded(model)
    if (path / "config.json").is_file() or (model == OFFLINE_MODEL and find_spec(OFFLINE_PACKAGE) is not None):
        return find_model(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except Exception:  # not in the hub's cache, or no id of the hub: an error for each
        return None


def _bundles(study: Study) -> Finding:
    from search.bundles import bundle_exists

    front = study.pareto()
    try:
        gone = [record.trial for record in front if not bundle_exists(record.bundle)]
    except InputError as error:
        return Finding("study: bundles", "problem", error.message, error.hint)
    if not gone:
        where = front[0].bundle.rpartition("/")[0] if front else study.folder
        return Finding("study: bundles", "ok", f"all {len(front)} of the front, in {where}")
    numbers = ", ".join(map(str, gone))
    fix = "Their figures stay; export, predict and --device need them back, or another search."
    return Finding("study: bundles", "note", f"{len(gone)} of the front's {len(front)} are gone: trials {numbers}", fix)
