"""Who may work on a study: one process at a time, whatever its home."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.exchange import export_study, import_study
from search.lock import only_one_on_study
from search.storage import default_url, open_storage
from space.errors import InputError


@pytest.fixture
def move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Go to another home."""
    return lambda: monkeypatch.setenv("SHOEBOX_HOME", str(tmp_path / "other"))


@pytest.mark.parametrize(
    "second",
    [
        "sqlite:///{folder}/s.db",
        "sqlite:///{folder}/s.db?timeout=30",
        "sqlite:///shared/s.db",
        "sqlite:///link.db",
    ],
)
def test_a_sqlite_file_has_one_searcher_of_a_study_among_all_homes(
    second: str, move: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "shared"
    first, second = f"sqlite:///{folder}/s.db", second.format(folder=folder)
    open_storage(first)
    (folder / "s.db").chmod(0o660)
    Path("link.db").symlink_to(folder / "s.db")
    with only_one_on_study("toy", first, "taken"):
        move()
        with pytest.raises(InputError, match="taken"), only_one_on_study("toy", second, "taken"):
            pass
        with only_one_on_study("toy", f"sqlite:///{tmp_path}/t.db", "taken"):  # another one of that name
            pass
        with only_one_on_study("other", second, "taken"):
            pass
    with only_one_on_study("toy", second, "taken"):
        pass
    assert (folder / "s.db.toy.driver.lock").stat().st_mode & 0o777 == 0o660  # who may write the one may lock it


def test_a_file_that_cannot_be_locked_is_told(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    open_storage(url)
    (tmp_path / "s.db.toy.driver.lock").mkdir()
    with (
        pytest.raises(InputError, match=r"s\.db\.toy\.driver\.lock cannot be locked: Is a directory\. Its folder"),
        only_one_on_study("toy", url, "taken"),
    ):
        pass


def test_nothing_is_imported_into_a_study_that_is_searched_from_another_home(
    make_engine: Callable[..., Any], move: Callable[[], None], tmp_path: Path
) -> None:
    make_engine(trials=1).run()
    export_study("toy", tmp_path / "toy.zip", "none")
    url = default_url()
    with only_one_on_study("toy", url, "taken"):
        move()
        with pytest.raises(InputError, match="is being searched or imported by another process"):
            import_study(tmp_path / "toy.zip", storage=url)


@pytest.mark.usefixtures("home")
def test_long_names_of_database_and_study_can_be_locked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/{'d' * 200}.db"
    open_storage(url)
    with only_one_on_study("s" * 64, url, "taken"):
        pass
