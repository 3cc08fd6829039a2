"""Fit words and numbers into columns of a terminal. Pure."""

from __future__ import annotations

from wcwidth import wcwidth

from ebpfmon.text import printable

_CUT = "+"  # ends a text that was longer
_UNITS = "kMGTPEZY"


def drawable(name: str) -> str:
    """Return a name as a terminal can show it, with "?" for each character that it cannot or that takes no column.

    Processes choose their own names; a character without a column, such as a combining mark, would change the one
    before it, which may be ours.
    """
    name = printable(name)
    return name if name.isascii() else "".join(c if wcwidth(c) > 0 else "?" for c in name)


def columns(text: str) -> int:
    """Return how many columns a drawable text takes."""
    return len(text) if text.isascii() else sum(map(wcwidth, text))


def cut(text: str, width: int) -> str:
    """Return a drawable text in at most `width` columns, with a mark at the end if it was longer."""
    if columns(text) <= width:
        return text
    kept, used = "", columns(_CUT)
    for c in text:
        used += wcwidth(c)
        if used > width:
            break
        kept += c
    return kept + _CUT if width > 0 else ""


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return a drawable text in exactly `width` columns, at their left or their right end."""
    text = cut(text, width)
    blanks = " " * (width - columns(text))
    return blanks + text if right else text + blanks


def short(rate: float, width: int, digits: int) -> str:
    """Return a rate in at most `width` (4 or more) columns: a whole number of up to `digits` digits, and beyond that
    in thousands (k), millions (M) and so on. Zero is a dash; anything else is at least 0.1."""
    if not rate:
        return "-"
    if rate < 9.95:
        return f"{max(rate, 0.1):.1f}".removesuffix(".0")
    text = f"{rate:.0f}"
    if len(text) <= digits:
        return text
    for unit in _UNITS:
        rate /= 1000
        text = f"{rate:.1f}{unit}"
        if len(text) > width:
            text = f"{rate:.0f}{unit}"
        if rate < 999.5:
            break
    return text
