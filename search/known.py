"""Configurations that were trained, so that none is trained twice."""

from __future__ import annotations

import hashlib
import json

from space.config import Recipe, StudentConfig


class KnownConfigurations:
    """Which trials train which configuration by which recipe.

    Args:
        repeats: trainings that one may have; more come from seeds of their own.
    """

    def __init__(self, repeats: int) -> None:
        self._repeats = repeats
        self._trials: dict[bytes, list[int]] = {}
        self._keys: dict[int, bytes] = {}

    def add(self, number: int, config: StudentConfig, recipe: Recipe) -> None:
        """Enter a trial that is not known."""
        key = _key(config, recipe)
        self._keys[number] = key
        self._trials.setdefault(key, []).append(number)

    def __contains__(self, number: int) -> bool:
        return number in self._keys

    def remove(self, number: int) -> None:
        """Forget a trial that another one repeats."""
        key = self._keys.pop(number, None)
        if key is not None:
            self._trials[key].remove(number)

    def twin(self, config: StudentConfig, recipe: Recipe) -> int | None:
        """A trial of the same configuration and recipe, if it may not be trained once more; else None."""
        found = self._trials.get(_key(config, recipe), [])
        return found[0] if len(found) >= self._repeats else None


def _key(config: StudentConfig, recipe: Recipe) -> bytes:
    both = [config.model_dump(mode="json"), recipe.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(both, sort_keys=True).encode()).digest()
