from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest

from search.storage import create_study, default_url, find_study, masked, open_storage, set_constraints, study_names
from space import InputError


def test_default_is_in_home(home: Path) -> None:
    open_storage(default_url())
    connection = sqlite3.connect(home / "studies.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_studies_are_listed_and_found(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/x.db")
    for name in ("b", "a"):
        optuna.create_study(study_name=name, storage=storage)
    assert study_names(storage) == ["a", "b"]
    assert find_study(storage, "c") is None


def test_constraints_by_id_are_those_of_the_trial(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/x.db"))
    trial = study.ask()
    set_constraints(study, trial._trial_id, {"bytes": 0.5, "ms": -1})
    set_constraints(study, trial._trial_id, {"bytes": 0.7})
    assert study.get_trials()[0].constraints == {"bytes": 0.5, "ms": -1}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@host/name",
        "nonsense://me:s3cret@host/name",
        "mysql://me:s3cret@host:x/name",
        "postgresql://127.0.0.1:1/name?user=me&password=s3cret",
        "mysql+pymysql://127.0.0.1:1/name?passwd=s3cret",
        "postgresql://me:p@s3cret@127.0.0.1/name",
        "postgresql://me:p/w@s3cret@127.0.0.1:1/name",
    ],
)
def test_passwords_reach_no_message(url: str) -> None:
    assert "s3cret" not in masked(url)
    with pytest.raises(InputError) as caught:
        open_storage(url)
    assert "s3cret" not in str(caught.value)
    assert "storage" in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_password_with_an_at_sign_is_to_be_escaped() -> None:
    with pytest.raises(InputError, match=r"postgresql://me:\*\*\*@host/name has an @ in its password") as caught:
        open_storage("postgresql://me:s3@cret@host/name")
    assert "%40" in str(caught.value.hint)


@pytest.mark.parametrize("url", ["studies.db", "sqlite://", "sqlite:///:memory:", "", "sqlite:///file:x.db?uri=true"])
def test_what_is_no_usable_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="sqlite:////folder"):
        open_storage(url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is not a database, but it is long enough to be looked at" * 20)
    with pytest.raises(InputError, match="cannot be opened"):
        open_storage(f"sqlite:///{tmp_path}/x.db")


def test_many_may_open_a_new_storage_at_once(tmp_path: Path) -> None:
    """Tables are created by one of them; the others wait, and none fails."""
    for attempt in range(5):
        url = f"sqlite:///{tmp_path / str(attempt) / 'new.db'}"
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(open_storage, [url] * 8))
        create_study(opened[0], "one", ["maximize"], {})
        assert study_names(opened[-1]) == ["one"]
