"""Keep errors in the code that a probe's set-up provides from stopping the daemon: they are logged instead."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ebpfmon.errors import PluginError
from ebpfmon.model import LabelSource, Rows, Setup
from ebpfmon.text import escaped

log = logging.getLogger(__name__)


def guarded(setup: Setup, probe: str) -> Setup:
    """Return a set-up whose parts may fail. Raises PluginError if one cannot work from the start."""
    labels = {
        stem: GuardedLabels(of_table, f"probe '{probe}': labels of '{stem}'") for stem, of_table in setup.labels.items()
    }
    return replace(setup, labels=labels, close=_closing(setup.close, probe))


def _closing(close: Callable[[], None], probe: str) -> Callable[[], None]:
    def closing() -> None:
        try:
            close()
        except Exception as error:  # whatever a plugin's code raises
            log.warning("close what probe '%s' has set up: %s: %s", probe, type(error).__name__, escaped(str(error)))

    return closing


class GuardedLabels(LabelSource):
    """The labels that a plugin gives to rows. If the plugin's code fails, all rows count, labelled by their numbers."""

    def __init__(self, source: LabelSource, called: str) -> None:
        """`called`: how messages call them. Raises PluginError if they can never work."""
        self._source, self._called = source, called
        self._failing: set[str] = set()
        """The methods that failed when they were last called."""
        try:
            self.fields, self.labels = tuple(source.fields), tuple(source.labels)
            self.maximum, self.other = source.maximum, tuple(source.other) or ("other",) * len(self.labels)
        except (AttributeError, TypeError) as error:
            raise PluginError(f"{called}: {error}") from None
        if not self.fields or not all(isinstance(name, str) for name in self.fields):
            raise PluginError(f"{called}: fields: {self.fields!r}: expected a tuple of a row's fields")
        if not self.labels or not all(isinstance(name, str) and name for name in self.labels):
            raise PluginError(f"{called}: labels: {self.labels!r}: expected a tuple of names")
        if not isinstance(self.maximum, int) or self.maximum < 1:
            raise PluginError(f"{called}: maximum: {self.maximum!r}: expected an integer above 0")
        if len(self.other) != len(self.labels) or not all(isinstance(value, str) for value in self.other):
            raise PluginError(f"{called}: other: {self.other!r}: expected {len(self.labels)} label values")

    def included(self, rows: Rows) -> NDArray[np.bool_] | None:
        """Return which rows count."""
        try:
            included: object = self._source.included(rows)
            if included is not None and not (
                isinstance(included, np.ndarray) and included.dtype == np.bool_ and included.shape == rows.shape
            ):
                raise TypeError(f"included() is to return an array of {len(rows)} bool, or None")
        except Exception as error:  # whatever a plugin's code raises
            self._failed("included", "cannot say which rows count, so all of them do", error)
            return None
        self._worked("included", "say again which rows count")
        return included

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the label values of each row."""
        return self._labelled(rows, self._source.values, "values")

    def names(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the label values of each row as people read them."""
        return self._labelled(rows, self._source.names, "names")

    def _labelled(
        self, rows: Rows, of_rows: Callable[[Rows], Sequence[tuple[str, ...]]], method: str
    ) -> Sequence[tuple[str, ...]]:
        width = len(self.labels)
        try:
            found = of_rows(rows)
            if len(found) != len(rows) or not all(
                isinstance(values, tuple) and len(values) == width and all(isinstance(v, str) for v in values)
                for values in found
            ):
                raise TypeError(f"{method}() is to return {len(rows)} tuples of {width} str")
        except Exception as error:  # whatever a plugin's code raises
            self._failed(method, "are called by their numbers", error)
            keys = ["_".join(str(row[name]) for name in self.fields) for row in rows]
            return [(key, *("",) * (width - 1)) for key in keys]
        self._worked(method, "are named again")
        return found

    def _failed(self, method: str, effect: str, error: Exception) -> None:
        if method not in self._failing:  # one line for each change of state
            self._failing.add(method)
            log.warning("%s %s: %s: %s", self._called, effect, type(error).__name__, escaped(str(error)))

    def _worked(self, method: str, effect: str) -> None:
        if method in self._failing:
            self._failing.remove(method)
            log.warning("%s %s", self._called, effect)
