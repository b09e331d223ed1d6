"""Tensors on disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from space.paths import ordinary_mode


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, with a new file's ordinary permissions.

    Raises:
        OSError: it cannot be written, as of `system_errors`.
    """
    with system_errors(path):
        save_file({name: value.contiguous() for name, value in tensors.items()}, str(path), metadata)
    path.chmod(ordinary_mode())


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Whatever writes safetensors files to `path` within it fails as the system does.

    Raises:
        OSError: a file cannot be written, with the number of the system's error: the library's own error only names
            it in its text, and a full disk must be told from a fault of the trial.
    """
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
