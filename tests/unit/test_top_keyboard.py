"""Bytes from a keyboard become names of keys."""

from __future__ import annotations

from typing import Any

import pytest
from blessed import Terminal
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon.top.keyboard import Keyboard
from ebpfmon.top.screen import describe_terminal

TERMINALS: dict[str, Terminal] = {
    term: describe_terminal(term) for term in ("xterm", "linux", "vt100", "tmux-256color")
}
SPLIT = [
    ("\x1b[A", "up"), ("\x1b[B", "down"), ("\x1b[C", "right"), ("\x1b[D", "left"), ("\x1b[1;5B", "down"),
    ("\x1b[H", "home"), ("\x1b[F", "end"), ("\x1b[1~", "home"), ("\x1b[4~", "end"), ("\x1b[7~", "home"),
    ("\x1b[8~", "end"), ("\x1b[5~", "pgup"), ("\x1b[6~", "pgdn"), ("\x1b[6;2~", "pgdn"), ("é", "é"), ("日", "日"),
    ("q", "q"), ("\r", "enter"), ("\n", "enter"), ("\x7f", "backspace"), ("\b", "backspace"), ("\x03", "ctrl-c"),
    ("\x1b[[A", None), ("\x1b[15~", None), ("\x1b[?1;2c", None), ("\x01", None), ("\t", None), ("\x1bOP", None),
]  # fmt: skip
APPLICATION = [("\x1bOA", "up"), ("\x1bOH", "home"), ("\x1bOF", "end")]
"""Keys in application mode, which terminals that follow xterm may send."""


@pytest.mark.parametrize("term", [*TERMINALS])
def test_every_sequence_of_a_used_key_is_recognised(term: str) -> None:
    for sequence, key in SPLIT + (APPLICATION if term == "xterm" else []):
        keyboard = Keyboard(TERMINALS[term])
        assert keyboard.feed(sequence.encode()) == [key] * (key is not None), sequence
        assert not keyboard.has_partial_key


@given(
    st.sampled_from([*TERMINALS]),
    st.lists(st.sampled_from(SPLIT), max_size=12),
    st.randoms(),
)
def test_keys_are_the_same_however_their_bytes_arrive(
    term: str, typed: list[tuple[str, str | None]], random: Any
) -> None:
    data = "".join(sequence for sequence, _ in typed).encode()
    keyboard, found = Keyboard(TERMINALS[term]), []
    while data:
        size = random.randint(1, len(data))
        found += keyboard.feed(data[:size])
        data = data[size:]
    assert found == [key for _, key in typed if key]
    assert not keyboard.has_partial_key


@given(st.binary(max_size=64))
def test_any_bytes_make_at_most_one_key_each_and_end_no_later_than_a_flush(data: bytes) -> None:
    keyboard = Keyboard(TERMINALS["xterm"])
    assert len(keyboard.feed(data)) <= len(data)
    keyboard.flush()
    assert not keyboard.has_partial_key
    assert keyboard.feed(b"\x1b") == []
    assert keyboard.has_partial_key
    assert keyboard.flush() == ["escape"]


def test_escape_and_a_character_in_one_read_are_two_keys() -> None:
    assert Keyboard(TERMINALS["xterm"]).feed(b"\x1bq\x1b\x1b[A") == ["escape", "q", "escape", "up"]


def test_a_sequence_without_an_end_is_discarded() -> None:
    keyboard = Keyboard(TERMINALS["xterm"])
    for piece in (b"\x1b[", *[b"0"] * 100):
        keyboard.feed(piece)
    assert not keyboard.has_partial_key
    assert keyboard.feed(b"q") == ["q"]
