"""Files of bundles: who may read them, and what is said where they cannot be read."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.bundles import write_bundle

from runners.bundle import CHECKPOINT, copy_bundle
from runners.tensors import save_tensors
from space.errors import InputError


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_permissions_of_any_new_file(mask: int, tmp_path: Path) -> None:
    copy_bundle(write_bundle(tmp_path / "bundle", "texts"), tmp_path / "copy")
    save_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    for file in [*(tmp_path / "bundle").iterdir(), *(tmp_path / "copy").iterdir(), tmp_path / "a.safetensors"]:
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask, file
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o777 & ~mask


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = write_bundle(tmp_path / "bundle", "texts"), tmp_path / "copy"
    copy = shutil.copyfile

    def refuse(file: Path, to: Path) -> Path:  # as the system does; not to root, who may run this
        if file.name == CHECKPOINT:
            raise PermissionError(13, "Permission denied", str(file))
        return copy(file, to)

    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(InputError, match=rf"{CHECKPOINT} cannot be read: Permission denied"):
        copy_bundle(source, target)
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]
