"""Standard input."""

from __future__ import annotations

import io

import pytest


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes, encoding: str = "utf-8", errors: str | None = None) -> None:
    """Give bytes on standard input, which Python opened with an encoding."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding=encoding, errors=errors))
