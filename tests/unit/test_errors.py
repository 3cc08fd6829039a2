"""The errors that callers can act on."""

from __future__ import annotations

import asyncio

import pytest

from ebpfmon.errors import SinkError, describe


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SinkError("no route to 'x'"), "no route to 'x'"),
        (SinkError("a\x1b[31m\nb"), "a\\x1b[31m\\nb"),
        (ValueError("a\n  b\x07"), "ValueError: a b\\x07"),
        (SystemExit(7), "SystemExit: 7"),
        (asyncio.CancelledError(), "CancelledError"),
        (SinkError(""), "SinkError"),
        (UnprintableError(), "UnprintableError"),
    ],
)
def test_an_error_of_any_kind_is_described_on_one_printable_line(error: BaseException, line: str) -> None:
    assert describe(error) == line
