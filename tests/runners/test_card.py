"""The card of a bundle: what it says, and that its program runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.bundles import record_of, write_bundle

from objectives.interval import interval
from runners.bundle import BundleOrigin, read_config
from runners.card import card
from runners.origin import data_in_words, licence_of
from runners.predict import load_bundle
from runners.record import SOURCE_QUALITY, ArmQuality
from runners.task.spec import TaskSpec
from runners.teacher.model import OFFLINE_MODEL
from space.families import export_model

TEXTS = {"texts": "a film of yours", "pairs": ("a dull film", "the film was great"), "tags": "ada met a film"}
SHOWN = {"texts": '"a text of yours"', "pairs": '"the first text", "the second text"', "tags": '"a text of yours"'}


@pytest.mark.parametrize("kind", ["texts", "pairs", "tags", "several"])
def test_the_program_of_the_card_answers_as_the_bundle(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "bundle", kind)
    text = (folder / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    alike = "texts" if kind == "several" else kind
    given = TEXTS[alike]
    quoted = ", ".join(f'"{part}"' for part in ([given] if isinstance(given, str) else given))
    assert SHOWN[alike] in program
    monkeypatch.chdir(folder)
    exec(program.replace(SHOWN[alike], quoted), {})
    printed = capsys.readouterr().out
    bundle = load_bundle(folder)
    if kind == "tags":
        (found,) = bundle.tag([str(given)])
        assert printed.splitlines() == [f"{word} {tag}" for word, tag in zip(found.words, found.tags, strict=True)]
        assert len(set(found.tags)) > 1
    elif kind == "pairs":
        assert float(printed) == pytest.approx(bundle.predict([given[0]], [given[1]])[0].score, abs=1e-4)
    else:
        task = "mood" if kind == "several" else None
        assert printed.strip() == bundle.predict([str(given)], task=task)[0].label


@pytest.mark.parametrize("kind", ["texts", "several"])
def test_the_card_says_what_how_good_from_where_and_under_which_terms(kind: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", kind)
    text = (folder / "README.md").read_text()
    named = {"texts": "0.8500 (95 % interval 0.812 to 0.882)", "several": "0.8000 (0.758 to 0.836, 400 texts)"}
    for part in (
        named[kind],
        "local files, folder films",
        "study `small`, trial 3, seed 5, 640 examples in 12 s",
        "`some/teacher` is under `mit`",
        "bad, good",
        "`metrics.json` holds every measurement",
        "```cpp\n",
        "```kotlin\n",
        "```swift\n",
        "FastGelu" if "gelu_tanh" in text else "MatMulNBits",
    ):
        assert part in text
    config = read_config(folder)
    model = export_model(config.student, config.shape, len(load_bundle(folder).tokens), load_bundle(folder).student())
    for operator in {node.op_type for node in model.graph.node}:
        assert re.search(rf"\b{operator}\b", text)


def test_the_card_of_a_rounded_student_does_not_say_that_a_search_found_it(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", "texts")
    config = read_config(folder)
    record = record_of(folder, "texts", config)
    found = card(config, record)
    rounded = card(config, record.model_copy(update={"metrics": {**record.metrics, SOURCE_QUALITY: 0.875}}))
    assert found.startswith("# small, trial 3\n")
    assert "round" not in found
    assert rounded.startswith("# small, trial 3, rounded to other bits\n")
    assert "Rounded after it by `shoebox quantize`, without training" in rounded
    assert "accuracy 0.8750 before, on the same texts" in rounded
    assert "selected the student that this one was rounded from" in rounded


def test_quality_on_arm_stands_beside_that_of_the_same_texts(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", "texts")
    config = read_config(folder)
    record = record_of(folder, "texts", config)  # accuracy 0.85 of 400 texts
    on_arm = ArmQuality(
        device="cortex-a53",
        examples=50,
        quality=0.88,
        quality_here=0.9,
        agreement=0.98,
        largest_difference=0.125,
        median_difference=0.001,
        versions={},
    )
    text = card(config, record.model_copy(update={"on_arm": on_arm}))
    assert "| accuracy with the kernels of cortex-a53 (50 examples, emulated) | 0.8800 |" in text
    assert "| the same with those of the machine that searched | 0.9000 |" in text
    assert "| answers that are alike with both | 98 %; a logit differs by at most 0.12 |" in text
    assert on_arm.beside(0.85) == "0.8800 (0.9000 here, 50 texts)"  # worse kernels, easier texts
    assert on_arm.beside(0.9) == "0.8800"


def test_a_card_cannot_be_formatted_by_names(tmp_path: Path) -> None:
    evil = "x](http://a) <img src=x>\n# big |"
    origin = BundleOrigin(data={"task": evil}, columns={"task": ("a",)}, teacher_licence="`mit`\n# no")
    folder = write_bundle(tmp_path / "b", "texts", study=evil, teacher=evil, label_names=(evil, "b"), origin=origin)
    text = card(read_config(folder), None)
    assert not re.search(r"^# (big|no)", text, re.MULTILINE)
    assert "has not been measured" in text
    plain = re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert not re.search(r"(?<!\\)<img|(?<!\\)\]\(", plain)


def test_intervals() -> None:
    assert interval("accuracy", 0.9, 100) == pytest.approx((0.8256, 0.9448), abs=1e-3)  # Wilson, as tabulated
    assert interval("accuracy", 1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)
    low, high = interval("pearson", 0.5, 103) or (0, 0)
    assert (low, high) == pytest.approx((0.3393, 0.6324), abs=1e-3)
    wider = interval("spearman", 0.5, 103) or (0, 0)
    assert wider[0] < low < high < wider[1]
    assert interval("f1", 0.5, 100) is interval("pearson", 0.5, 3) is None


def test_data_is_named_without_the_folders_of_this_machine() -> None:
    def told(data: dict[str, object], **more: object) -> str:
        return data_in_words(TaskSpec.model_validate({"data": data, **more}))

    assert told({"path": "/disk/own/secret/films"}) == "local files, folder films"
    assert told({"train": "/disk/own/a.csv", "validation": "/disk/own/b.csv"}) == "local files, a.csv and b.csv"
    hub = {"hub": "nyu-mll/glue", "config": "sst2"}
    assert told(hub, where={"lang": "en"}) == (
        "nyu-mll/glue (sst2) of the Hugging Face hub, split train, where lang is en"
    )
    assert "4,000 sentences" in told({"grammar": "sentiment"})


def test_licences_come_from_the_cards_of_models(tmp_path: Path) -> None:
    assert licence_of(OFFLINE_MODEL) == "apache-2.0"
    for text, found in (
        ("---\nlicense: mit\n---\n# A\n", "mit"),
        ("---\nlicense: [1]\n---\n", None),
        ("# A\nlicense: mit\n", None),
        ("---\n: :\n  - x: [\n---\n", None),
        ("---\nno end", None),
    ):
        (tmp_path / "README.md").write_text(text)
        assert licence_of(str(tmp_path)) == found
    assert licence_of("no/such-model-anywhere") is None
    assert licence_of("not an id of the hub!") is None
