"""Make text from outside safe to show on a terminal, in a log line or in a message.

A name chosen by a process, a file or a server may contain line breaks, terminal escape sequences or characters that
change the direction of the text. Both functions replace every character that Unicode does not call printable: control
characters (C0, DEL and C1), line and paragraph separators, formatting characters such as U+202E, and lone surrogates.
"""

from __future__ import annotations


def printable(text: str, max_length: int | None = None, replacement: str = "?") -> str:
    """Return the first `max_length` characters of the text on one line, with unprintable characters replaced."""
    text = text[:max_length]
    return text if text.isprintable() else "".join(c if c.isprintable() else replacement for c in text)


def escaped(text: str) -> str:
    r"""Return the text on one line, with unprintable characters as Python escapes (`\n`, `\x1b`).

    Use this in messages about something that a person wrote, so that they can find the character.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
