"""Bundles on a URL: in memory, which has no folders to rename, as object stores have none."""

from __future__ import annotations

import uuid
from pathlib import Path

import fsspec
import pytest

from runners.bundle_store import COMPLETE, amend, fetch, is_url, names, owner_of, publish, remove, remove_all, set_owner
from space.errors import DamagedError, InputError, OutputError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}/study"


def write(folder: Path, **content: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in content.items():
        (folder / name).write_text(text)
    return folder


def test_what_is_published_is_fetched(tmp_path: Path, url: str) -> None:
    publish(write(tmp_path / "one", model="weights", card="words"), f"{url}/00000")
    found = fetch(f"{url}/00000")
    assert {file.name: file.read_text() for file in found.iterdir()} == {"model": "weights", "card": "words"}
    assert fetch(f"{url}/00000") == found


def test_a_replaced_bundle_is_fetched_anew(tmp_path: Path, url: str) -> None:
    publish(write(tmp_path / "one", model="weights", old="x"), f"{url}/00000")
    fetch(f"{url}/00000")
    publish(write(tmp_path / "two", model="WEIGHTS"), f"{url}/00000")
    assert {file.name: file.read_text() for file in fetch(f"{url}/00000").iterdir()} == {"model": "WEIGHTS"}


def test_half_a_bundle_is_none(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("memory")
    put, calls = type(system).put_file, []

    def failing(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise ConnectionError("the network is gone")
        put(*arguments, **options)

    monkeypatch.setattr(type(system), "put_file", failing)
    with pytest.raises(OutputError, match="the network is gone"):
        publish(write(tmp_path / "one", model="weights", card="words"), f"{url}/00000")
    with pytest.raises(InputError, match="no whole bundle"):
        fetch(f"{url}/00000")


def test_a_damaged_file_is_noticed(tmp_path: Path, url: str) -> None:
    publish(write(tmp_path / "one", model="weights"), f"{url}/00000")
    fsspec.filesystem("memory").pipe_file(f"{url}/00000/model", b"less")
    with pytest.raises(InputError, match="model has not its 7 bytes"):
        fetch(f"{url}/00000")


def test_other_content_of_the_same_size_is_noticed(tmp_path: Path, url: str) -> None:
    publish(write(tmp_path / "one", model="weights", card="words"), f"{url}/00000")
    fsspec.filesystem("memory").pipe_file(f"{url}/00000/model", b"WEIGHTS")
    with pytest.raises(DamagedError, match="model is not what was written"):
        fetch(f"{url}/00000")
    fsspec.filesystem("memory").rm_file(f"{url}/00000/model")
    with pytest.raises(DamagedError, match="model is not there"):
        fetch(f"{url}/00000")
    fsspec.filesystem("memory").pipe_file(f"{url}/00000/{COMPLETE}", b"{")
    with pytest.raises(DamagedError, match=f"{COMPLETE} cannot be understood"):
        fetch(f"{url}/00000")


def test_a_list_of_an_older_version_has_sizes_alone(tmp_path: Path, url: str) -> None:
    publish(write(tmp_path / "one", model="weights"), f"{url}/00000")
    fsspec.filesystem("memory").pipe_file(f"{url}/00000/{COMPLETE}", b'{"id": "7", "files": {"model": 7}}')
    assert (fetch(f"{url}/00000") / "model").read_text() == "weights"
    amend(write(tmp_path / "two", card="new"), f"{url}/00000", ["card"])
    assert {file.name: file.read_text() for file in fetch(f"{url}/00000").iterdir()} == {
        "model": "weights",
        "card": "new",
    }


@pytest.mark.parametrize("protocol", ["memory", "file"])
@pytest.mark.parametrize("failing", range(6))
def test_a_bundle_is_whole_wherever_its_amendment_is_interrupted(
    tmp_path: Path, url: str, protocol: str, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{url}/00000" if protocol == "memory" else f"file://{tmp_path}/store/00000"
    publish(write(tmp_path / "one", model="weights", card="old", metrics="1"), place)
    before = fetch(place)
    system, calls = type(fsspec.filesystem(protocol)), []

    def interrupted(name: str) -> None:
        call = getattr(system, name)

        def calling(*arguments: object, **options: object) -> object:
            calls.append(name)
            if len(calls) > failing:
                raise ConnectionError("the network is gone")
            return call(*arguments, **options)

        monkeypatch.setattr(system, name, calling)

    for name in ("put_file", "pipe_file", "mv", "rm_file"):
        interrupted(name)
    new = write(tmp_path / "two", model="weights", card="other words", metrics="22")
    with pytest.raises(OutputError, match="the network is gone"):
        amend(new, place, ["card", "metrics"])
    monkeypatch.undo()
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "other"))
    found = fetch(place)
    assert (found / "model").read_text() == "weights"
    assert (found / "card").read_text() in ("old", "other words")
    amend(new, place, ["card", "metrics"])
    after = fetch(place)
    assert after.name != before.name
    assert {file.name: file.read_text() for file in after.iterdir()} == {
        "model": "weights",
        "card": "other words",
        "metrics": "22",
    }


def test_a_file_that_the_bundle_lacked_is_no_damage_until_it_is_there(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(write(tmp_path / "one", model="weights"), f"{url}/00000")

    def failing(*arguments: object, **options: object) -> None:
        raise ConnectionError("the network is gone")

    with monkeypatch.context() as broken:
        broken.setattr(type(fsspec.filesystem("memory")), "put_file", failing)
        with pytest.raises(OutputError, match="the network is gone"):
            amend(write(tmp_path / "two", card="new"), f"{url}/00000", ["card"])
    assert [file.name for file in fetch(f"{url}/00000").iterdir()] == ["model"]


def test_a_store_that_lets_nobody_remove_files(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError("Access denied")

    for name in ("rm", "rm_file", "mv"):
        monkeypatch.setattr(type(fsspec.filesystem("memory")), name, refused)
    publish(write(tmp_path / "one", model="weights", card="old"), f"{url}/00000")
    amend(write(tmp_path / "two", card="new"), f"{url}/00000", ["card"])
    assert (fetch(f"{url}/00000") / "card").read_text() == "new"


def test_a_store_that_moves_no_file_over_another(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(write(tmp_path / "one", model="weights", card="old"), f"{url}/00000")

    def refused(*arguments: object, **options: object) -> None:
        raise FileExistsError("there is one")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "mv", refused)
    amend(write(tmp_path / "two", card="new"), f"{url}/00000", ["card"])
    assert (fetch(f"{url}/00000") / "card").read_text() == "new"
    assert {name.rpartition("/")[2] for name in fsspec.filesystem("memory").ls(f"{url}/00000", detail=False)} == {
        "model",
        "card",
        COMPLETE,
    }


def test_what_cannot_be_removed_is_named(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(write(tmp_path / "one", model="weights"), f"{url}/00000")

    def failing(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted", "model")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "rm", failing)
    with pytest.raises(OutputError, match=rf"The bundle at {url}/00000 cannot be removed: .*not permitted"):
        remove(f"{url}/00000")


def test_leftovers_are_removed(tmp_path: Path, url: str) -> None:
    assert names(url) == []
    for number in ("00000", "00001"):
        publish(write(tmp_path / number, model="weights"), f"{url}/{number}")
    remove_all(url, {"00000", "00007"})
    assert names(url) == ["00001"]
    remove(f"{url}/00001")
    remove(f"{url}/00001")
    assert names(url) == []


def test_who_keeps_bundles_at_a_url_stands_there(tmp_path: Path, url: str) -> None:
    assert owner_of(url) is None
    set_owner(url, "one")
    assert owner_of(url) == "one"
    assert names(url) == []
    publish(write(tmp_path / "one", model="weights"), f"{url}/00000")
    assert (names(url), owner_of(url)) == (["00000"], "one")
    fsspec.filesystem("memory").pipe_file(f"{url}/owner.json", b"{")
    with pytest.raises(InputError, match=r"owner\.json cannot be read"):
        owner_of(url)


def test_folders_are_their_own_copy(tmp_path: Path) -> None:
    assert not is_url(str(tmp_path))
    assert fetch(str(tmp_path)) == tmp_path


def test_unknown_protocols_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nonsense"):
        publish(write(tmp_path / "one", model="x"), "nonsense://host/folder")


def test_the_list_is_written_last(tmp_path: Path, url: str) -> None:
    publish(write(tmp_path / "one", model="weights"), f"{url}/00000")
    system = fsspec.filesystem("memory")
    made = {Path(name).name: system.created(name) for name in system.ls(f"{url}/00000", detail=False)}
    assert max(made, key=lambda name: made[name]) == COMPLETE
