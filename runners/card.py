"""The card of a bundle: one page in Markdown on what it is, how good, on what, from where, and how to run it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from objectives.interval import interval
from runners.record import SOURCE_QUALITY, TaskQuality, TrialRecord
from runners.snippets import snippets
from space.families import get_family
from space.graph import Node

if TYPE_CHECKING:
    from runners.bundle import BundleConfig

_RECIPE = ("initialization", "quantization", "learning_rate", "logit_weight", "hidden_weight", "state_weight")


def card(config: BundleConfig, record: TrialRecord | None) -> str:
    """The text of a bundle's `README.md`.

    Args:
        config: content of its `config.json`.
        record: what was measured; None of a student that was changed since, of which nothing is known.
    """
    title = f"{config.study}, trial {record.trial}" if record else f"{config.study}, trained further"
    if _rounded(record):
        title += ", rounded to other bits"
    sections = [
        f"# {_plain(title)}\n\n{_what(config, record)}",
        f"## How good it is\n\n{_measures(config, record)}",
        f"## Where it comes from\n\n{_where_from(config, record)}",
        f"## How to run it\n\n{_interface(config, record)}\n\n{snippets(config)}",
        f"## Licence\n\n{_licence(config)}",
    ]
    return "\n\n".join(sections) + "\n"


def _rounded(record: TrialRecord | None) -> bool:
    """Whether `shoebox quantize` made the bundle from a trial's."""
    return record is not None and SOURCE_QUALITY in record.metrics


def _plain(text: str) -> str:
    """A name inside a line of Markdown, whatever it holds: no line break, no mark that formats."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A name as code."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def _what(config: BundleConfig, record: TrialRecord | None) -> str:
    names = _tasks(config)
    does = {name: _does(config, name) for name in names}
    jobs = does[names[0]] if len(names) == 1 else "; ".join(f"{_plain(name)}: {does[name]}" for name in names)
    size = f" of {record.deployed_bytes:,} bytes" if record else ""
    title = get_family(config.student.family).title
    made = f"{title}{size}, distilled from {_code(config.teacher)} for phones by Shoebox."
    return f"{made} It answers {jobs}."


def _tasks(config: BundleConfig) -> list[str]:
    return list(config.shape.tasks) or ["task"]


def _does(config: BundleConfig, name: str) -> str:
    """What is answered for one task, in words."""
    shape, names = config.shape.part(name)[0], config.labels_of(name)
    of = "each word of a text" if shape.per_token else "a pair of texts" if shape.segments == 2 else "a text"
    if names is None:
        return f"{of} with one real value"
    shown = ", ".join(map(_plain, names[:6])) + (", ..." if len(names) > 6 else "")
    return f"{of} with one of {len(names)} {'tags' if shape.per_token else 'classes'} ({shown})"


def _measures(config: BundleConfig, record: TrialRecord | None) -> str:
    if record is None:
        return "The student was trained further after the search, and has not been measured since."
    rows = _quality_rows(config, record)
    rows.append(("deployed bytes (model.onnx + vocab.txt)", f"{record.deployed_bytes:,}"))
    for latency in filter(None, (record.latency, record.long_latency)):
        calibration = "calibrated" if latency.calibrated else "uncalibrated"
        conditions = f"{latency.device}, {latency.tokens} tokens ({latency.backend}, {calibration})"
        rows.append((f"latency, {conditions}", f"{latency.milliseconds:.2f} ms"))
    heap = record.costs().get("peak_heap_bytes")
    if heap is not None:
        rows.append(("peak heap of loading and one run", f"{heap:,} bytes"))
    if record.on_arm is not None:
        arm = record.on_arm
        kernels = f"{record.metric} with the kernels of {arm.device} ({arm.examples:,} examples, emulated)"
        rows.append((kernels, f"{arm.quality:.4f}"))
        rows.append(("the same with those of the machine that searched", f"{arm.quality_here:.4f}"))
        alike = f"{100 * arm.agreement:.4g} %; a logit differs by at most {arm.largest_difference:.2g}"
        rows.append(("answers that are alike with both", alike))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    which = "the student that this one was rounded from" if _rounded(record) else "this student"
    selected = (
        f"The validation split also selected {which} among others of its study: on new text expect a little less."
    )
    return f"| measure | value |\n|---|---|\n{table}\n\n{selected}"


def _quality_rows(config: BundleConfig, record: TrialRecord) -> list[tuple[str, str]]:
    sizes = record.validation_examples
    if not record.tasks:
        size = next(iter(sizes.values()), None)
        split = "validation split" + (f", {size:,} texts" if size else "")
        within = None if size is None or config.shape.per_token else interval(record.metric, record.quality, size)
        likely = f" (95 % interval {within[0]:.3f} to {within[1]:.3f})" if within else ""
        rows = [(f"{record.metric} ({split})", f"{record.quality:.4f}{likely}")]
        taught = record.metrics.get("teacher_quality")
        return rows if taught is None else [*rows, ("the teacher's", f"{taught:.4f}")]
    rows = [("mean retention of the teachers' quality, % (validation splits)", f"{record.quality:.2f}")]
    for name, task in record.tasks.items():
        rows.append((f"{name}: {task.metric}", f"{task.quality:.4f}{_likely(task, sizes.get(name))}"))
        rows.append((f"{name}: the teacher's, and retention", f"{task.teacher_quality:.4f}, {task.retention:.2f} %"))
    return rows


def _likely(task: TaskQuality, size: int | None) -> str:
    within = interval(task.metric, task.quality, size) if size else None
    return f" ({within[0]:.3f} to {within[1]:.3f}, {size:,} texts)" if within else ""


def _where_from(config: BundleConfig, record: TrialRecord | None) -> str:
    lines = []
    if config.origin is not None:
        several = len(config.origin.data) > 1
        for name, data in config.origin.data.items():
            lines.append(f"- Text{f' of {_plain(name)}' if several else ''}: {_plain(data)}.")
    lines.append(f"- Teacher: {_code(config.teacher)}, fine-tuned on that text.")
    lines.append(f"- Architecture: {config.student.summary()}.")
    recipe = config.recipe.model_dump(mode="json")
    told = [f"{name.replace('_', ' ')} {_number(recipe[name])}" for name in _RECIPE]
    lines.append(f"- Training: {', '.join(told)}; all of it stands in `config.json`.")
    if record is not None:
        seen = record.metrics.get("examples_seen")
        trained = f", {seen:,.0f} examples in {record.seconds.get('train', 0):,.0f} s" if seen else ""
        which = f"study {_code(config.study)}, trial {record.trial}, seed {record.seed}"
        lines.append(f"- Found by `shoebox search`: {which}{trained}.")
        if _rounded(record):
            before = f"{record.metric} {record.metrics[SOURCE_QUALITY]:.4f} before, on the same texts"
            lines.append(f"- Rounded after it by `shoebox quantize`, without training, to the bits above: {before}.")
        versions = ", ".join(f"{name} {version}" for name, version in record.versions.items() if name != "machine")
        machine = f" ({record.versions['machine']})" if "machine" in record.versions else ""
        lines.append(f"- Made and measured with {versions}{machine}; quality is that of `model.onnx` in ONNX Runtime.")
    return "\n".join(lines)


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _interface(config: BundleConfig, record: TrialRecord | None) -> str:
    inputs = "`input_ids`, `attention_mask`" + (", `token_type_ids`" if config.shape.segments == 2 else "")
    operators = _operators(config)
    measured = "; `metrics.json` holds every measurement" if record else ""
    most, case = config.shape.max_length, _normalization(config)
    return f"""- `model.onnx` takes {inputs}, int64 [batch, sequence] of at most {most} word pieces, and answers
  {_answers(config)}.
- `vocab.txt` is a WordPiece vocabulary ({case}): [PAD] is 0, [CLS] 2, [SEP] 3.
- It needs ONNX Runtime with its contrib operators, as every full build has them (`com.microsoft`:
  {operators["com.microsoft"]}). A build of reduced size needs these and
  {operators["ai.onnx"]} of `ai.onnx`, and whatever its optimiser makes of them.
- `load_bundle(FOLDER).student()` reloads it in torch for further training{measured}."""


def _normalization(config: BundleConfig) -> str:
    """What is done to text before it is split, in words; beside its case only what is not as in most tokenizers."""
    found = ["lower-cased" if config.lower_case else "cased"]
    switches = config.normalization
    if switches.strip_accents is not None:
        found.append("accents stripped" if switches.strip_accents else "accents kept")
    if not switches.handle_chinese_chars:
        found.append("Chinese characters not split from each other")
    if not switches.clean_text:
        found.append("control characters kept")
    return ", ".join(found)


def _operators(config: BundleConfig) -> dict[str, str]:
    """The operators of the file by domain."""
    found: dict[str, set[str]] = {"ai.onnx": set(), "com.microsoft": set()}
    for part in get_family(config.student.family).graph(config.student, config.shape, 1000):
        for item in part.items:
            if isinstance(item, Node):
                found[item.domain or "ai.onnx"].add(item.operator)
    return {domain: ", ".join(sorted(names)) for domain, names in found.items()}


def _answers(config: BundleConfig) -> str:
    """The outputs of the file in words."""

    def kind(task: str, outputs: int) -> str:
        return "one real value" if config.labels_of(task) is None else f"{outputs} classes"

    shape = config.shape
    if not shape.tasks:
        tags = f"{shape.outputs} tags; the first piece of a word carries its tag"
        dims = ", ".join(map(str, shape.graph_outputs[0][1]))
        return f"`logits`, float32 [{dims}] ({tags if shape.per_token else kind('', shape.outputs)})"
    named = ", ".join(
        f"`logits.{name}` [batch, {task.outputs}] ({kind(name, task.outputs)}, "
        f"{'pairs' if task.segments == 2 else 'single texts'})"
        for name, task in shape.tasks.items()
    )
    return (
        f"for every task at once, float32, {named}; `logits` [batch, {shape.outputs}] holds them side by side. Where\n"
        "  the text is single, `token_type_ids` are 0"
    )


def _licence(config: BundleConfig) -> str:
    licence = config.origin.teacher_licence if config.origin else None
    teacher = (
        f"Its teacher {_code(config.teacher)} is under {_code(licence)}, as that model's card says"
        if licence
        else f"The licence of its teacher {_code(config.teacher)} is not recorded here: see that model"
    )
    return (
        f"{teacher}; a student takes its vocabulary, and often its weights, from the teacher, so that these terms go "
        "with it. The terms of the text that it was trained on apply as well. Shoebox itself (Apache-2.0) adds none."
    )
