"""Bytes to keys."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ebpfmon.top.keys import Keys

SPLIT = [
    ("\x1b[A", "up"), ("\x1b[B", "down"), ("\x1b[C", "right"), ("\x1b[D", "left"), ("\x1bOA", "up"), ("\x1bOH", "home"),
    ("\x1b[1;5B", "down"), ("\x1b[H", "home"), ("\x1b[F", "end"), ("\x1b[1~", "home"), ("\x1b[4~", "end"),
    ("\x1b[5~", "pgup"), ("\x1b[6;2~", "pgdn"), ("é", "é"), ("日", "日"), ("q", "q"), ("\r", "enter"),
    ("\x7f", "backspace"), ("\x03", "ctrl-c"), ("\x1b[[A", None), ("\x1b[15~", None), ("\x1b[?1;2c", None),
    ("\x01", None),
]  # fmt: skip


@given(st.lists(st.sampled_from(SPLIT), max_size=12), st.randoms())
def test_keys_are_the_same_however_their_bytes_arrive(typed: list[tuple[str, str | None]], random: Any) -> None:
    data = "".join(sequence for sequence, _ in typed).encode()
    keys, found = Keys(), []
    while data:
        size = random.randint(1, len(data))
        found += keys.feed(data[:size])
        data = data[size:]
    assert found == [key for _, key in typed if key]
    assert not keys.waiting


@given(st.binary(max_size=64))
def test_no_bytes_make_more_keys_than_there_are_characters_or_wait_for_ever(data: bytes) -> None:
    keys = Keys()
    assert len(keys.feed(data)) <= len(data)
    keys.flush()
    assert not keys.waiting
    assert keys.feed(b"\x1b") == []
    assert keys.waiting
    assert keys.flush() == ["escape"]


def test_a_sequence_without_an_end_is_given_up() -> None:
    keys = Keys()
    for piece in (b"\x1b[", *[b"0"] * 100):
        keys.feed(piece)
    assert not keys.waiting
    assert keys.feed(b"q") == ["q"]
