"""Errors in the code of a probe's set-up are logged once and stop nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from ebpfmon import LabelSource, Probe, ProbeSettings, Rows, Setup
from ebpfmon.errors import PluginError, SettingsError
from ebpfmon.plugins import guard
from ebpfmon.plugins.guard import GuardedLabels, guarded, set_up
from ebpfmon.shortage import CANNOT_START_THREAD
from ebpfmon.testing import keyed_table

ROWS = keyed_table([("uid", "u4"), ("zero", "u4")], ["calls"], [{"uid": 3}, {"uid": 5}]).rows


class Named(LabelSource):
    """A source of labels that returns or raises the given values."""

    fields: Any = ("uid", "zero")
    labels: Any = ("user",)
    maximum: Any = 20
    other: Any = ()

    def __init__(
        self, included: Any = None, values: Any = (("3",), ("5",)), names: Any = (("three",), ("five",))
    ) -> None:
        self.answers = {"included": included, "values": values, "names": names}

    def answer(self, method: str) -> Any:
        if isinstance(answer := self.answers[method], BaseException):
            raise answer
        return answer

    def included(self, rows: Rows) -> Any:
        return self.answer("included")

    def values(self, rows: Rows) -> Any:
        return self.answer("values")

    def names(self, rows: Rows) -> Any:
        return self.answer("names")


def test_labels_that_work_are_passed_on() -> None:
    labels = GuardedLabels(Named(np.array([True, False])), "labels")
    assert (labels.fields, labels.labels, labels.maximum, labels.other) == (("uid", "zero"), ("user",), 20, ("other",))
    included = labels.included(ROWS)
    assert included is not None
    assert included.tolist() == [True, False]
    assert labels.values(ROWS) == (("3",), ("5",))
    assert labels.names(ROWS) == (("three",), ("five",))
    assert GuardedLabels(Named(), "labels").included(ROWS) is None
    with_other = Named()
    with_other.labels, with_other.other = ("port", "protocol"), ["rest", ""]
    assert GuardedLabels(with_other, "labels").other == ("rest", "")


@pytest.mark.parametrize(
    "broken",
    [
        ZeroDivisionError("oops"),
        SystemExit(7),
        KeyboardInterrupt(),
        GeneratorExit(),
        7,
        [("a",)],
        [("a",), (1,)],
        [("a", "b"), ("c", "d")],
        ["a", "b"],
        [["a"], ["b"]],
    ],
)
@pytest.mark.parametrize("method", ["values", "names"])
def test_rows_that_get_no_labels_are_labelled_by_their_numbers_and_this_is_logged_once(
    method: str, broken: object, caplog: pytest.LogCaptureFixture
) -> None:
    named = Named(**{method: broken})
    labels = GuardedLabels(named, "probe 'p': labels of 't'")
    for _ in range(3):
        results = {"included": labels.included(ROWS), "values": labels.values(ROWS), "names": labels.names(ROWS)}
        assert results[method] == [("3_0",), ("5_0",)]
    (message,) = caplog.messages
    assert message.startswith(f"probe 'p': labels of 't': {method}() fails, so rows are labelled by their numbers: ")
    named.answers[method] = [("a",), ("b",)]
    assert getattr(labels, method)(ROWS) == named.answers[method]
    assert caplog.messages[1:] == [f"probe 'p': labels of 't': {method}() works again"]


def test_rows_that_get_no_labels_have_as_many_label_values_as_others() -> None:
    named = Named(values=7)
    named.labels = ("port", "protocol", "address")
    assert GuardedLabels(named, "labels").values(ROWS) == [("3_0", "", ""), ("5_0", "", "")]


@pytest.mark.parametrize(
    "broken",
    [ZeroDivisionError("oops"), SystemExit(7), KeyboardInterrupt(), 7, [True, True], np.array([True]),
     np.array([1, 0])],
)  # fmt: skip
def test_all_rows_count_while_included_fails(broken: object, caplog: pytest.LogCaptureFixture) -> None:
    labels = GuardedLabels(Named(broken), "labels")
    for _ in range(3):
        assert labels.included(ROWS) is None
        assert labels.values(ROWS) == (("3",), ("5",))
        assert labels.names(ROWS) == (("three",), ("five",))
    (message,) = caplog.messages
    assert message.startswith("labels: included() fails, so all rows count: ")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fields", (), "fields: (): expected a tuple of field names"),
        ("fields", (1,), "fields: (1,): expected a tuple of field names"),
        ("fields", 7, "'int' object is not iterable"),
        ("labels", (), "labels: (): expected a tuple of names"),
        ("labels", ("",), "labels: ('',): expected a tuple of names"),
        ("labels", 7, "'int' object is not iterable"),
        ("maximum", 0, "maximum: 0: expected an integer above 0"),
        ("maximum", "1", "maximum: '1': expected an integer above 0"),
        ("other", ("a", "b"), "other: ('a', 'b'): expected 1 label values"),
        ("other", (1,), "other: (1,): expected 1 label values"),
    ],
)
def test_invalid_labels_are_refused(field: str, value: object, message: str) -> None:
    named = Named()
    setattr(named, field, value)
    with pytest.raises(PluginError) as caught:
        guarded(Setup(labels={"t": named}), "p")
    assert str(caught.value) == f"probe 'p': labels of 't': {message}"


@pytest.mark.parametrize(
    ("error", "text"),
    [(OSError("oops"), "OSError: oops"), (SystemExit(7), "SystemExit: 7"), (KeyboardInterrupt(), "KeyboardInterrupt")],
)
def test_an_error_of_close_is_logged_and_stops_nothing(
    error: BaseException, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    guarded(Setup(close=fail), "p").close()
    assert caplog.messages == [f"cannot close the set-up of probe 'p': {text}"]


def probe_with(setup: Callable[[ProbeSettings], Any]) -> Probe:
    return Probe(name="p", package="x", object="x", charts=(), setup=setup)


def raising(error: BaseException) -> Callable[[ProbeSettings], Any]:
    def setup(settings: ProbeSettings) -> Any:
        raise error

    return setup


class TrappedLabels(LabelSource):
    """Labels whose attributes end the process."""

    @property
    def fields(self) -> Any:  # type: ignore[override]
        raise SystemExit(7)


@pytest.mark.parametrize(
    ("setup", "reason"),
    [
        (raising(SystemExit(0)), "cannot set up probe 'p': SystemExit: 0"),
        (raising(KeyboardInterrupt()), "cannot set up probe 'p': KeyboardInterrupt"),
        (raising(GeneratorExit("x")), "cannot set up probe 'p': GeneratorExit: x"),
        (raising(MemoryError()), "cannot set up probe 'p': Cannot allocate memory; "),
        (lambda settings: None, "cannot set up probe 'p': it returned None, not a Setup"),
        (lambda settings: Setup(labels=cast(Any, 7)), "cannot set up probe 'p': AttributeError: 'int' object has"),
        (lambda settings: Setup(labels={"t": TrappedLabels()}), "probe 'p': labels of 't': SystemExit: 7"),
    ],
)  # fmt: skip
def test_whatever_a_set_up_raises_is_an_error_of_the_plugin(setup: Callable[[ProbeSettings], Any], reason: str) -> None:
    with pytest.raises(PluginError) as caught:
        set_up(probe_with(setup), ProbeSettings())
    assert str(caught.value).startswith(reason)


def test_a_close_that_never_returns_is_left_behind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "CLOSE_S", 0.01)
    release = threading.Event()

    def hang() -> None:
        release.wait()

    guarded(Setup(close=hang), "p").close()
    release.set()
    assert caplog.messages == ["cannot close the set-up of probe 'p': it has not returned within 0.01 s"]


def test_a_set_up_that_cannot_be_used_is_closed_whatever_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    def end() -> None:
        raise SystemExit(7)

    with pytest.raises(PluginError, match="labels of 't'"):
        set_up(probe_with(lambda settings: Setup(labels={"t": TrappedLabels()}, close=end)), ProbeSettings())
    assert caplog.messages == ["cannot close the set-up of probe 'p': SystemExit: 7"]


def test_a_refusal_of_the_settings_stays_one() -> None:
    with pytest.raises(SettingsError, match="no such port"):
        set_up(probe_with(raising(SettingsError("no such port"))), ProbeSettings())


def test_code_of_a_plugin_that_does_not_return_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebpfmon.plugins.guard.SLOW_S", 0.01)
    named = threading.Event()
    monkeypatch.setattr("ebpfmon.plugins.guard.log.warning", lambda *_: named.set())
    before = threading.active_count()
    set_up(probe_with(lambda settings: Setup() if named.wait(30) else None), ProbeSettings())
    assert threading.active_count() == before


def test_code_of_a_plugin_runs_even_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert set_up(probe_with(lambda settings: Setup(rodata={"a": 1})), ProbeSettings()).rodata == {"a": 1}


def test_a_set_up_is_closed_without_a_message_if_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[bool] = []
    setup = guarded(Setup(close=lambda: closed.append(True)), "naps")

    def no_thread(_: str) -> None:
        raise RuntimeError(CANNOT_START_THREAD)

    monkeypatch.setattr("ebpfmon.plugins.guard.Worker", no_thread)
    setup.close()
    assert (closed, caplog.messages) == ([True], [])
