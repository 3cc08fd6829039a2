"""Make text from outside safe to show to people: on a terminal, in a log line, in a message.

A name that a process, a file or a server chose may contain line breaks, terminal escape sequences or characters that
change the direction of the text. Everything that Unicode does not call printable is replaced: control characters (C0,
DEL and C1), line and paragraph separators, formatting characters such as U+202E, and lone surrogates.
"""

from __future__ import annotations


def printable(text: str, most: int | None = None, instead: str = "?") -> str:
    """Return the text on one line and at most `most` characters of it, with `instead` of what cannot be shown."""
    text = text[:most]
    return text if text.isprintable() else "".join(c if c.isprintable() else instead for c in text)


def escaped(text: str) -> str:
    r"""Return the text on one line, with Python's escapes (`\n`, `\x1b`) for each character that cannot be shown.

    Messages about what a person wrote use this, because they can then find the character.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
