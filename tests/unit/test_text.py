"""Text from outside becomes one printable line."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ebpfmon.errors import AttachError, EbpfmonError, KernelError, LoadError, PluginError, SettingsError, SinkError
from ebpfmon.text import escaped, printable

NASTY = ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\u202e", "\u2066", "\u200b",
         "\ufeff", "\udcff", "\ue000", "\xa0"]  # fmt: skip


@pytest.mark.parametrize("nasty", NASTY, ids=ascii)
def test_unprintable_characters_are_replaced(nasty: str) -> None:
    assert printable(f"a{nasty}b") == "a?b"
    assert escaped(f"a{nasty}b") == f"a{ascii(nasty)[1:-1]}b"


@pytest.mark.parametrize("text", ["", "nginx: worker process", "Grüße", "日本語", "e\u0301", "a\\b'\"?", "🦊"])
def test_printable_text_is_unchanged(text: str) -> None:
    assert printable(text) == escaped(text) == text


@given(st.text(), st.none() | st.integers(0, 20))
@example("\x1b[2J\x1b[H", 3)
def test_any_text_becomes_one_line_of_at_most_the_limit(text: str, limit: int | None) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) == (len(text) if limit is None else min(len(text), limit))
    assert escaped(text).isprintable()
    shown.encode()


@pytest.mark.parametrize(
    "kind", [EbpfmonError, SettingsError, PluginError, SinkError, KernelError, LoadError, AttachError]
)
def test_every_error_is_one_printable_line(kind: type[EbpfmonError]) -> None:
    assert str(kind("open 'a\x1b[2J\nb': denied")) == "open 'a\\x1b[2J\\nb': denied"
