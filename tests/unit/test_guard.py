"""What a probe's set-up brings along may fail in every tick: it is said once, and everything goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ebpfmon import Setup
from ebpfmon.errors import PluginError
from ebpfmon.plugins.guard import GuardedKeys, guarded
from ebpfmon.testing import keyed_table

ROWS = keyed_table([("uid", "u4"), ("zero", "u4")], ["calls"], [{"uid": 3}, {"uid": 5}]).rows


class Named:
    """Keys that do what they are told to."""

    fields: Any = ("uid", "zero")
    maximum: Any = 20
    other: Any = "other"

    def __init__(self, wanted: Any = None, labels: Any = (("uid_3", "three"), ("uid_5", "five"))) -> None:
        self.said, self.named = wanted, labels

    def wanted(self, rows: np.ndarray) -> np.ndarray | None:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said  # type: ignore[no-any-return]  # whatever it is

    def labels(self, rows: np.ndarray) -> Sequence[tuple[str, str]]:
        if isinstance(self.named, Exception):
            raise self.named
        return self.named  # type: ignore[no-any-return]  # likewise


def test_what_works_is_handed_on() -> None:
    keys = GuardedKeys(Named(np.array([True, False])), "keys")
    assert (keys.fields, keys.maximum, keys.other) == (("uid", "zero"), 20, "other")
    wanted = keys.wanted(ROWS)
    assert wanted is not None
    assert wanted.tolist() == [True, False]
    assert keys.labels(ROWS) == (("uid_3", "three"), ("uid_5", "five"))
    assert GuardedKeys(Named(), "keys").wanted(ROWS) is None


@pytest.mark.parametrize("broken", [ZeroDivisionError("oops"), 7, [("a", "b")], [("a", 1), ("b", 2)], ["ab", "cde"]])
def test_keys_that_are_not_named_are_called_by_their_numbers_and_it_is_said_once(
    broken: object, caplog: pytest.LogCaptureFixture
) -> None:
    named = Named(labels=broken)
    keys = GuardedKeys(named, "probe 'p': keys of 't'")
    for _ in range(3):
        assert keys.labels(ROWS) == [("3_0", "3_0"), ("5_0", "5_0")]
    (said,) = caplog.messages
    assert said.startswith("probe 'p': keys of 't' are called by their numbers: ")
    named.named = [("a", "a"), ("b", "b")]
    assert keys.labels(ROWS) == named.named
    assert caplog.messages[1:] == ["probe 'p': keys of 't' are named again"]


@pytest.mark.parametrize("broken", [ZeroDivisionError("oops"), 7, [True, True], np.array([True]), np.array([1, 0])])
def test_where_it_cannot_be_said_which_rows_count_all_of_them_do(
    broken: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert GuardedKeys(Named(broken), "keys").wanted(ROWS) is None
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("fields", (), "fields: (): expected a tuple of a row's fields"),
        ("fields", (1,), "fields: (1,): expected a tuple of a row's fields"),
        ("fields", 7, "'int' object is not iterable"),
        ("maximum", 0, "maximum: 0: expected an integer above 0"),
        ("maximum", "1", "maximum: '1': expected an integer above 0"),
        ("other", "", "other: '': expected an ID"),
    ],
)
def test_keys_that_can_never_work_are_refused(field: str, value: object, said: str) -> None:
    named = Named()
    setattr(named, field, value)
    with pytest.raises(PluginError) as caught:
        guarded(Setup(keys={"t": named}), "p")
    assert str(caught.value) == f"probe 'p': keys of 't': {said}"


def test_what_cannot_be_closed_is_said_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("oops")

    guarded(Setup(close=fail), "p").close()
    assert caplog.messages == ["close what probe 'p' has set up: OSError: oops"]
