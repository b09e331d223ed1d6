"""What the shell is offered at the tab key, as the completion script asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

Offered = Callable[[str], list[str]]


@pytest.fixture
def offered(home: Any) -> Offered:
    def ask(line: str) -> list[str]:
        command = [sys.executable, "-c", "import sys; sys.argv[0] = 'shoebox'; from search.cli import app; app()"]
        words = line.split(" ")
        asked = {"_SHOEBOX_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **asked})
        return done.stdout.split()

    return ask


def test_commands_and_shipped_studies(offered: Offered) -> None:
    assert "pareto" in offered("shoebox pa")
    assert offered("shoebox search quick") == ["quickstart"]
    assert offered("shoebox search quickstart --sampler known") == ["known-cost"]
    assert offered("shoebox search quickstart --device cortex-a7") == ["cortex-a72", "cortex-a76"]
    assert offered("shoebox search quickstart --latency est") == ["estimated"]


def test_studies_of_the_storage(offered: Offered, make_engine: Callable[..., Any]) -> None:
    assert offered("shoebox pareto ") == []
    make_engine(trials=1).run()
    assert offered("shoebox pareto t") == ["toy"]
    assert offered("shoebox pareto toy t") == []  # named already
    assert offered("shoebox report x") == []


def test_an_unreadable_storage_offers_nothing(offered: Offered, home: Any) -> None:
    home.mkdir(exist_ok=True)
    (home / "studies.db").write_text("this is no database")
    assert offered("shoebox pareto ") == []
