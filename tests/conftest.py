from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import pytest

from runners.emulator import Installation, install


@pytest.fixture(scope="session")
def emulator() -> Installation:
    """The ARM emulator in the user's cache folder, set up as a user's first search would."""
    return install(lambda line: None)
