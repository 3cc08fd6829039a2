"""Between the daemon and what a probe's set-up brings along: what fails there is said, and stops nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ebpfmon.errors import PluginError
from ebpfmon.model.everything import Keys, Setup

log = logging.getLogger(__name__)


def guarded(setup: Setup, probe: str) -> Setup:
    """A set-up whose parts may fail. Raises PluginError where one cannot work from the start."""
    keys = {stem: GuardedKeys(of_table, f"probe '{probe}': keys of '{stem}'") for stem, of_table in setup.keys.items()}
    return replace(setup, keys=keys, close=_closing(setup.close, probe))


def _closing(close: Callable[[], None], probe: str) -> Callable[[], None]:
    def closing() -> None:
        try:
            close()
        except Exception as error:  # whatever a stranger's code raises
            log.warning("close what probe '%s' has set up: %s: %s", probe, type(error).__name__, error)

    return closing


class GuardedKeys:
    """The meaning of keys that a stranger gives. Where that fails, all rows count, by their numbers."""

    def __init__(self, keys: Keys, called: str) -> None:
        """`called`: how messages call them. Raises PluginError where they can never work."""
        self._keys, self._called = keys, called
        self._failing = False
        try:
            self.fields, self.maximum, self.other = tuple(keys.fields), keys.maximum, keys.other
        except (AttributeError, TypeError) as error:
            raise PluginError(f"{called}: {error}") from None
        if not self.fields or not all(isinstance(name, str) for name in self.fields):
            raise PluginError(f"{called}: fields: {self.fields!r}: expected a tuple of a row's fields")
        if not isinstance(self.maximum, int) or self.maximum < 1:
            raise PluginError(f"{called}: maximum: {self.maximum!r}: expected an integer above 0")
        if not isinstance(self.other, str) or not self.other:
            raise PluginError(f"{called}: other: {self.other!r}: expected an ID")

    def wanted(self, rows: np.ndarray) -> np.ndarray | None:
        """Which rows count."""
        try:
            wanted: object = self._keys.wanted(rows)
            if wanted is None:
                return None
            if isinstance(wanted, np.ndarray) and wanted.dtype == np.bool_ and wanted.shape == rows.shape:
                return wanted
            raise TypeError(f"wanted() is to return an array of {len(rows)} bool, or None")
        except Exception as error:  # whatever a stranger's code raises
            self._failed(error)
            return None

    def labels(self, rows: np.ndarray) -> Sequence[tuple[str, str]]:
        """ID and name of each row's key."""
        try:
            labels: Sequence[tuple[str, str]] = self._keys.labels(rows)
            if len(labels) != len(rows) or not all(isinstance(i, str) and isinstance(n, str) for i, n in labels):
                raise TypeError(f"labels() is to return {len(rows)} pairs of str, an ID and a name")
        except Exception as error:  # likewise
            self._failed(error)
            keys = ["_".join(str(row[name]) for name in self.fields) for row in rows]
            return [(key, key) for key in keys]
        if self._failing:
            self._failing = False
            log.warning("%s are named again", self._called)
        return labels

    def _failed(self, error: Exception) -> None:
        if not self._failing:  # one line for each change of state
            self._failing = True
            log.warning("%s are called by their numbers: %s: %s", self._called, type(error).__name__, error)
