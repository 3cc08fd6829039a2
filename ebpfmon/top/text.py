"""Words and numbers in so many columns of a terminal. Pure."""

from __future__ import annotations

import unicodedata

_CUT = "+"  # ends what was longer
_UNITS = "kMGTPEZY"


def printable(name: str) -> str:
    """A name as it may go to a terminal: a process names itself, so what would move the cursor, or would take no
    column of its own, becomes `?`."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(c if c.isprintable() and _columns(c) else "?" for c in name)


def columns(text: str) -> int:
    """How many columns a printable text takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def cut(text: str, width: int) -> str:
    """A printable text in at most `width` columns; that it was longer is marked."""
    if columns(text) <= width:
        return text
    kept, used = "", columns(_CUT)
    for c in text:
        used += _columns(c)
        if used > width:
            break
        kept += c
    return kept + _CUT if width > 0 else ""


def pad(text: str, width: int, *, right: bool = False) -> str:
    """A printable text in exactly `width` columns, at the left or the right of them."""
    text = cut(text, width)
    blanks = " " * (width - columns(text))
    return blanks + text if right else text + blanks


def short(rate: float, width: int, digits: int) -> str:
    """A rate in at most `width` (4 or more) columns: whole with so many digits, beyond in thousands (k), millions (M)
    and so on; a dash where nothing was done, and never 0 where something was."""
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


def _columns(c: str) -> int:
    # marks are drawn over the character before them
    if unicodedata.category(c) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1
