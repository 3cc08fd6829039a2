"""Call a plugin's code so that its errors do not stop the daemon."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ebpfmon.errors import PluginError, SettingsError, describe
from ebpfmon.model import LabelSource, Probe, ProbeSettings, Rows, Setup
from ebpfmon.plugins.validate import shown
from ebpfmon.threads import Worker, start_thread

log = logging.getLogger(__name__)

SLOW_S = 5.0
"""How long a plugin's code may take at start before a message says which one it is."""

CLOSE_S = 1.0
"""How long closing a set-up may take."""


@contextmanager
def announced_if_slow(doing: str) -> Iterator[None]:
    """Log what the body is doing if it takes longer than SLOW_S, because a plugin's code may never return."""
    timer = threading.Timer(SLOW_S, log.warning, ("%s takes longer than %g s", doing, SLOW_S))
    timer.daemon = True
    with suppress(RuntimeError):  # The system allows no more threads.
        start_thread(timer)
    try:
        yield
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()  # It has all capabilities, so it must have ended before the process drops any.


def set_up(probe: Probe, settings: ProbeSettings) -> Setup:
    """Return what a probe derives from its settings, guarded against the errors of its code.

    Raises SettingsError if the probe refuses them, and PluginError if its set-up fails in any other way.
    """
    step = f"cannot set up probe '{probe.name}'"
    try:
        with announced_if_slow(f"probe '{probe.name}': setting it up"):
            setup: object = probe.setup(settings)
    except SettingsError:
        raise
    except BaseException as error:  # a plugin's code may raise anything
        raise PluginError(f"{step}: {describe(error)}") from error
    if not isinstance(setup, Setup):
        raise PluginError(f"{step}: it returned {shown(setup)}, not a Setup")
    try:
        return guarded(setup, probe.name)
    except BaseException as error:
        _closing(setup.close, probe.name)()
        raise (error if isinstance(error, PluginError) else PluginError(f"{step}: {describe(error)}")) from None


def guarded(setup: Setup, probe: str) -> Setup:
    """Return a set-up that logs errors in its labels and in `close()`. Raises PluginError if the labels are invalid."""
    labels = {
        table: GuardedLabels(source, f"probe '{probe}': labels of '{table}'") for table, source in setup.labels.items()
    }
    return replace(setup, labels=labels, close=_closing(setup.close, probe))


def _closing(close: Callable[[], None], probe: str) -> Callable[[], None]:
    """Return a `close` that logs errors, and that leaves behind what does not return within CLOSE_S."""

    def closing() -> None:
        try:
            try:
                thread = Worker(f"close {probe}")
            except RuntimeError:  # The system allows no more threads, which the error that led here says.
                close()
                return
            closed = thread.submit(close)
            thread.shutdown()
            wait([closed], CLOSE_S)
            if not closed.done():
                raise PluginError(f"it has not returned within {CLOSE_S:g} s")
            closed.result()
        except BaseException as error:  # A plugin may raise anything, even SystemExit.
            log.warning("cannot close the set-up of probe '%s': %s", probe, describe(error))

    return closing


class GuardedLabels(LabelSource):
    """A plugin's source of labels, guarded against its errors.

    While `included` fails, all rows count. While `values` or `names` fails, rows are labelled by the numbers of their
    keys. Each failure and each recovery is logged once.
    """

    def __init__(self, source: LabelSource, name: str) -> None:
        """Check the attributes of a source. Raises PluginError if they are invalid. `name` begins all messages."""
        self._source, self._name = source, name
        self._failing: set[str] = set()
        """The methods whose last call failed."""
        try:
            self.fields, self.labels = tuple(source.fields), tuple(source.labels)
            self.maximum, self.other = source.maximum, tuple(source.other) or ("other",) * len(self.labels)
        except (AttributeError, TypeError) as error:
            raise PluginError(f"{name}: {error}") from None
        except BaseException as error:  # from a property
            raise PluginError(f"{name}: {describe(error)}") from None
        if not self.fields or not all(isinstance(field, str) for field in self.fields):
            raise PluginError(f"{name}: fields: {self.fields!r}: expected a tuple of field names")
        if not self.labels or not all(isinstance(label, str) and label for label in self.labels):
            raise PluginError(f"{name}: labels: {self.labels!r}: expected a tuple of names")
        if not isinstance(self.maximum, int) or self.maximum < 1:
            raise PluginError(f"{name}: maximum: {self.maximum!r}: expected an integer above 0")
        if len(self.other) != len(self.labels) or not all(isinstance(value, str) for value in self.other):
            raise PluginError(f"{name}: other: {self.other!r}: expected {len(self.labels)} label values")

    def included(self, rows: Rows) -> NDArray[np.bool_] | None:
        """Return which rows count, (rows,) of bool; None if all do."""
        try:
            included: object = self._source.included(rows)
            if included is not None and not (
                isinstance(included, np.ndarray) and included.dtype == np.bool_ and included.shape == rows.shape
            ):
                raise TypeError(f"expected an array of {len(rows)} bool, or None")
        except BaseException as error:  # A plugin may raise anything.
            self._failed("included", "all rows count", error)
            return None
        self._worked("included")
        return included

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the label values of each row."""
        return self._labelled(rows, self._source.values, "values")

    def names(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the display names of each row's label values."""
        return self._labelled(rows, self._source.names, "names")

    def _labelled(
        self, rows: Rows, of_rows: Callable[[Rows], Sequence[tuple[str, ...]]], method: str
    ) -> Sequence[tuple[str, ...]]:
        width = len(self.labels)
        try:
            labelled = of_rows(rows)
            if len(labelled) != len(rows) or not all(
                isinstance(values, tuple) and len(values) == width and all(isinstance(v, str) for v in values)
                for values in labelled
            ):
                raise TypeError(f"expected {len(rows)} tuples of {width} str")
        except BaseException as error:  # A plugin may raise anything.
            self._failed(method, "rows are labelled by their numbers", error)
            keys = ["_".join(str(row[name]) for name in self.fields) for row in rows]
            return [(key, *("",) * (width - 1)) for key in keys]
        self._worked(method)
        return labelled

    def _failed(self, method: str, effect: str, error: BaseException) -> None:
        if method not in self._failing:
            self._failing.add(method)
            log.warning("%s: %s() fails, so %s: %s", self._name, method, effect, describe(error))

    def _worked(self, method: str) -> None:
        if method in self._failing:
            self._failing.remove(method)
            log.warning("%s: %s() works again", self._name, method)
