"""Study files: one YAML each, which says all that a search needs to know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from objectives.limits import Cost, Limits
from runners.latency import DeviceSpec
from runners.plan import FidelitySpec, TaskPlan, TaskSections, TrialPlan
from search.domains import domain_misfit
from search.overrides import apply_overrides
from search.search_spec import SearchSpec
from search.starts import check_starts
from search.states import Objective
from search.validation import closest, explain, parse_yaml
from space.dimensions import ends
from space.errors import InputError
from space.families import get_family
from space.joint import RecipeDimensions, SpaceSpec
from space.paths import expanded

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
OWN_STUDY = "A study of your own is given by its path: FILE.yaml."  # of messages


_LABELS: dict[Objective, str] = {
    "latency_ms": "latency, ms",
    "long_latency_ms": "latency on a long text, ms",
    "deployed_bytes": "deployed bytes",
    "peak_heap_bytes": "peak heap, bytes",
}


class StudyFile(TaskSections):
    """A study file. The sections are described where their models are: in the rooms that they steer.

    Attributes:
        name: of the study in the storage and of its folder.
        description: one line for people.
        task, tasks, teacher, transfer, pretraining, supernet: what students learn, and from whom
            (`runners.plan.TaskSections`).
        space: what can be built (`space.SpaceSpec`).
        limits: hard limits (`objectives.limits.Limits`).
        objectives: what the front is about; quality is raised, the costs are lowered.
        device: the phone that latency is for (`runners.latency.DeviceSpec`).
        search: how configurations are proposed.
        fidelity: how much training a trial gets (`runners.plan.FidelitySpec`).
    """

    name: Annotated[str, Field(pattern=NAME)]
    description: str = ""
    space: SpaceSpec = SpaceSpec()  # type: ignore[valid-type]
    limits: Limits = Limits()
    objectives: tuple[Objective, ...] = ("quality", "latency_ms")
    device: DeviceSpec = DeviceSpec()
    search: SearchSpec = SearchSpec()
    fidelity: FidelitySpec = FidelitySpec()

    @field_validator("objectives")
    @classmethod
    def _sensible(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if "quality" not in objectives or len(set(objectives)) != len(objectives):
            raise ValueError(f"should hold quality and, each at most once, {', '.join(get_args(Cost))}")
        return objectives

    @model_validator(mode="after")
    def _fits_together(self) -> StudyFile:
        longest = max(self.device.lengths or (1,))
        most = max(plan.task.max_length for plan in self.task_plans.values())
        if longest > most:
            where = "task.max_length" if self.task else "every max_length of tasks, at most"
            raise ValueError(
                f"device.tokens {longest} is above {where} {most}: students have no positions for longer texts"
            )
        used = {*self.objectives, *self.limits.given()}
        if "long_latency_ms" in used and isinstance(self.device.tokens, int):
            raise ValueError(
                f"long_latency_ms needs two lengths: device.tokens should be auto or two, not {self.device.tokens}"
            )
        if self.device.latency == "native" and (self.search.workers or 1) > 1:
            raise ValueError("search.workers should be 1 with device.latency: native, or trials disturb the clock")
        if "peak_heap_bytes" in used and self.device.latency == "estimated":
            raise ValueError("peak_heap_bytes is counted by device.latency: emulated or native, not by estimated")
        drawn = any(share != 0 for share in ends(self.space.recipe.transfer_share))  # type: ignore[attr-defined]
        if drawn and all(plan.transfer is None for plan in self.task_plans.values()):
            raise ValueError("space.recipe.transfer_share is above 0, but there is no section transfer")
        for name, plan in self.task_plans.items():
            if problem := self._misfit(plan, drawn):
                raise ValueError(problem if self.task else f"tasks.{name}: {problem}")
        made = {name for plan in self.task_plans.values() if plan.transfer for name in plan.transfer.augmentations}
        for augmentation in ends(self.space.recipe.augmentation):  # type: ignore[attr-defined]
            if augmentation not in {"all", "none", *made}:
                raise ValueError(
                    f"space.recipe.augmentation names {augmentation}, which is not made: add it to "
                    "transfer.augment.methods"
                )
        if self.task and self.space.recipe.task_exponent != RecipeDimensions().task_exponent:  # type: ignore[attr-defined]
            raise ValueError("space.recipe.task_exponent is about several tasks, but there is only one: leave it out")
        if problem := domain_misfit(self.task_plans.values(), self.space.recipe):  # type: ignore[attr-defined]
            raise ValueError(problem)
        check_starts(self)
        if self.search.propose is not None:
            classifies = self.task is not None and self.task.kind == "classification"
            if problem := self.search.propose.misfit(self.space, classifies):
                raise ValueError(problem)
        return self

    def _misfit(self, plan: TaskPlan, drawn: bool) -> str | None:
        """What keeps the other sections from serving a task; None if nothing does."""
        for name in self.space.families:  # type: ignore[attr-defined]
            if problem := get_family(name).misfit(getattr(self.space, name), plan.task.per_token):
                return problem
        if plan.task.per_token and "encoder" in ends(self.space.recipe.teacher_update):  # type: ignore[attr-defined]
            return "space.recipe.teacher_update: encoder is for tasks that judge whole texts, not words"
        labels_texts = plan.task.kind == "classification"
        if self.task and not labels_texts and "balanced" in ends(self.space.recipe.head_bias):  # type: ignore[attr-defined]
            return "space.recipe.head_bias: balanced is for tasks that put texts into classes"
        if plan.transfer is None:
            return None
        if not drawn:
            return "transfer is never read: give space.recipe.transfer_share choices above 0"
        return plan.transfer.misfit(len(plan.task.text_columns), plan.task.per_token)

    def label_of(self, objective: Objective) -> str:
        """An objective's name for people, with its unit and conditions."""
        if objective == "quality":
            return f"{self.metric} (validation)"
        if objective in ("latency_ms", "long_latency_ms"):
            # A native time is that of the machine that searched, whose name its reading has.
            core = "" if self.device.latency == "native" else f"{Path(self.device.profile).name}, "
            return f"{_LABELS[objective]} ({core}{self.device.latency})"
        return _LABELS[objective]

    @property
    def bundles(self) -> str | None:
        """URL under which this study's bundles are; None if they are in its folder."""
        return self.search.bundles and f"{self.search.bundles}/{self.name}"

    def plan(self) -> TrialPlan:
        """What the trial pipeline needs to know."""
        return TrialPlan(
            study=self.name,
            task=self.task,
            tasks=self.tasks,
            teacher=self.teacher,
            device=self.device,
            limits=self.limits,
            fidelity=self.fidelity,
            transfer=self.transfer,
            pretraining=self.pretraining,
            supernet=self.supernet,
            space=None if self.supernet is None else self.space,
        )


def shipped_studies() -> dict[str, str]:
    """Text of every study file that comes with Shoebox, by name."""
    # `studies` is a folder without code, hence a namespace package, whose parts importlib.resources cannot list in
    # an editable install. It is installed beside this package.
    files = sorted((Path(__file__).resolve().parents[1] / "studies").glob("*.yaml"))
    return {file.stem: file.read_text(encoding="utf-8") for file in files}


def load_study_file(
    name_or_path: str | Path, overrides: Mapping[str, Any] | None = None, elsewhere: bool = False
) -> StudyFile:
    """Read and check a study file.

    Args:
        name_or_path: a shipped study's name, or a path. Relative paths in the file (data, a teacher's
            folder, a device profile) are taken from the file's folder.
        overrides: values by option (keys of `search.overrides.OVERRIDES`); None means not given. `data` is a folder
            (of several tasks, one that holds a folder for each), `text` one column or two with a comma between;
            `text` and `label` name the columns of tokens and tags where words are tagged; `where` is COLUMN=VALUE,
            or several with commas between.
        elsewhere: the study is for other machines: the folder `data` is not looked for on this one.

    Raises:
        InputError: no such study; not YAML; an unknown key or a wrong value (names file, key path and what
            would be right).
    """
    data, source = _content(name_or_path)
    given = apply_overrides(data, overrides or {}, elsewhere)
    try:
        return StudyFile.model_validate(data)
    except ValidationError as error:
        raise explain(error, StudyFile, data, source, given) from None


def study_name(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> str:
    """The name of the study in a file that may need more options to be whole.

    Raises:
        InputError: no such study; not YAML; no name.
    """
    text, source, _ = _read(str(name_or_path))
    name = (overrides or {}).get("name") or parse_yaml(text, source).get("name")
    return name if isinstance(name, str) else load_study_file(name_or_path, overrides).name


@dataclass(frozen=True)
class ResumedFile:
    """A study file that other machines are sent to go on with its study.

    It may need options to be whole that the study was started with, which the storage knows there.

    Attributes:
        name: of the study.
        content: the file's own, paths absolute and options entered; all but the name is unchecked.
    """

    name: str
    content: dict[str, Any]

    @property
    def bundles(self) -> str | None:
        """URL for the bundles, if the content names one."""
        section = self.content.get("search")
        found = section.get("bundles") if isinstance(section, dict) else None
        return found if isinstance(found, str) else None


def resumed_file(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> ResumedFile:
    """What other machines need of a study file to go on with its study.

    Args:
        name_or_path, overrides: as of `load_study_file`.

    Raises:
        InputError: no such study; not YAML; no name, or none of a study; an option that does not exist.
    """
    data, source = _content(name_or_path)
    apply_overrides(data, overrides or {}, elsewhere=True)
    name = data.get("name")
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        what = "name is missing" if name is None else f"name {name!r} is none of a study"
        raise InputError(f"{source}: {what}.", "Say which study to resume: --name NAME.")
    return ResumedFile(name, data)


def _content(name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """What a study file says, unchecked, with relative paths taken from its folder; and what to call it in messages."""
    text, source, folder = _read(str(name_or_path))
    data = parse_yaml(text, source)
    if folder is not None:
        _anchor_paths(data, folder)
    return data, source


def _read(name_or_path: str) -> tuple[str, str, Path | None]:
    """Text of a study file, what to call it in messages, and its folder if it is not a shipped one."""
    path = expanded(name_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        try:
            return path.read_text(encoding="utf-8"), f"Study file {name_or_path}", path.resolve().parent
        except FileNotFoundError:
            raise InputError(f"There is no study file {name_or_path}.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"Study file {name_or_path} cannot be read: {error}.") from None
    shipped = shipped_studies()
    if name_or_path not in shipped:
        hint = f"{closest(name_or_path, list(shipped))} {OWN_STUDY}"
        raise InputError(f"There is no shipped study {name_or_path!r}.", hint)
    return shipped[name_or_path], f"Study file studies/{name_or_path}.yaml", None


def _anchor_paths(data: dict[str, Any], folder: Path) -> None:
    """Make relative paths of a study file absolute: workers may run elsewhere."""
    device, teacher = data.get("device"), data.get("teacher")
    if isinstance(device, dict) and str(device.get("profile")).endswith((".yaml", ".yml")):
        device["profile"] = str(folder / expanded(str(device["profile"])))
    if isinstance(teacher, dict):
        _anchor_data(teacher.get("intermediate"), folder)
    if isinstance(teacher, dict) and isinstance(teacher.get("model"), str):
        model = folder / expanded(teacher["model"])
        teacher["model"] = str(model) if model.is_dir() else teacher["model"]
    pretraining = data.get("pretraining")
    if isinstance(pretraining, dict) and isinstance(pretraining.get("model"), str):
        model = folder / expanded(pretraining["model"])
        pretraining["model"] = str(model) if model.is_dir() else pretraining["model"]
    _anchor_sources(pretraining, "sources", folder)
    _anchor_sources(pretraining, "exclude", folder)
    _anchor_sources(data.get("transfer"), "sources", folder)
    _anchor_masked_model(data.get("transfer"), folder)
    _anchor_data(data.get("task"), folder)
    tasks = data.get("tasks")
    for task in tasks.values() if isinstance(tasks, dict) else ():
        _anchor_data(task, folder)
        if isinstance(task, dict):
            _anchor_sources(task.get("transfer"), "sources", folder)
            _anchor_masked_model(task.get("transfer"), folder)


def _anchor_masked_model(transfer: Any, folder: Path) -> None:
    augment = transfer.get("augment") if isinstance(transfer, dict) else None
    if isinstance(augment, dict) and isinstance(augment.get("masked_model"), str):
        model = folder / expanded(augment["masked_model"])
        augment["masked_model"] = str(model) if model.is_dir() else augment["masked_model"]


def _anchor_sources(section: Any, key: str, folder: Path) -> None:
    sources = section.get(key) if isinstance(section, dict) else None
    for source in sources if isinstance(sources, list) else [sources]:
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            source["path"] = str(folder / expanded(source["path"]))


def _anchor_data(task: Any, folder: Path) -> None:
    source = task.get("data") if isinstance(task, dict) else None
    if not isinstance(source, dict) or "hub" in source or "grammar" in source:
        return
    for key in ("path", "train", "validation"):
        if isinstance(source.get(key), str) and "://" not in source[key]:
            source[key] = str(folder / expanded(source[key]))
