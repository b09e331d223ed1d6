"""Where the bundles of finished trials are now: in their folders, or at a URL (`runners.bundle_store`)."""

from __future__ import annotations

import logging
from pathlib import Path

from runners.bundle_store import COMPLETE, fetch, is_url, names
from space.errors import DamagedError

logger = logging.getLogger("shoebox.search.bundles")


def bundle_exists(place: str) -> bool:
    """Whether there is a bundle where a record says; nothing is copied.

    Raises:
        InputError: what is at the URL cannot be listed.
    """
    return COMPLETE in names(place) if is_url(place) else Path(place).is_dir()


def find_bundle(place: str) -> Path | None:
    """The folder of a bundle, for one at a URL a copy in the cache; None where it is gone.

    Raises:
        InputError: what is at the URL cannot be listed or read.
    """
    return fetch(place) if bundle_exists(place) else None


def whole_bundle(place: str) -> Path | None:
    """As `find_bundle`, and None for one that is damaged, which a warning names.

    Raises:
        InputError: what is at the URL cannot be listed or read.
    """
    from runners.bundle import read_config, read_vocabulary  # whose imports take a second

    try:
        folder = find_bundle(place)
        if folder is None or not folder.is_dir():
            return None
        read_config(folder)
        read_vocabulary(folder)
    except DamagedError as error:
        logger.warning("%s", error)
        return None
    return folder
