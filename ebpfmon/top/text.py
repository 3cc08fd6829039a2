"""Fit text and numbers into columns of a terminal. Pure."""

from __future__ import annotations

from wcwidth import wcwidth

from ebpfmon.text import printable

_CUT = "+"  # marks a text that was cut
_UNITS = "kMGTPEZY"


def drawable(name: str) -> str:
    """Return a name with "?" for each character that a terminal cannot show or that has no width.

    Processes choose their own names. A character without width, such as a combining mark, would change the character
    before it, which may not belong to the name.
    """
    name = printable(name)
    return name if name.isascii() else "".join(c if wcwidth(c) > 0 else "?" for c in name)


def display_width(text: str) -> int:
    """Return the width of a drawable text in columns."""
    return len(text) if text.isascii() else sum(map(wcwidth, text))


def cut(text: str, width: int) -> str:
    """Return a drawable text, cut to `width` columns, with a mark at the end if it was longer."""
    if display_width(text) <= width:
        return text
    kept, used = "", display_width(_CUT)
    for c in text:
        used += wcwidth(c)
        if used > width:
            break
        kept += c
    return kept + _CUT if width > 0 else ""


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return a drawable text in exactly `width` columns, aligned at the left or the right."""
    text = cut(text, width)
    blanks = " " * (width - display_width(text))
    return blanks + text if right else text + blanks


def format_rate(rate: float, width: int, digits: int) -> str:
    """Return a rate in at most `width` columns, which must be 4 or more.

    A rate below 10 has one decimal and is shown as at least 0.1. A higher one is a whole number of up to `digits`
    digits, or else in thousands (k), millions (M) and so on. Zero is a dash.
    """
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
