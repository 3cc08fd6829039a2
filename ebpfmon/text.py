"""Make text from outside safe to show on a terminal, in a log line or in a message, and tell equal names apart.

A name chosen by a process, a file or a server may contain line breaks, terminal escape sequences or characters that
change the direction of the text. The first four functions here replace every character that Unicode does not call
printable: control characters (C0, DEL and C1), line and paragraph separators, formatting characters such as U+202E, and
lone surrogates. `printable` loses what they were, and `escaped` shows it in messages. `escaped_json` and `escaped_toml`
change how a value is written, but not the value.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence


def printable(text: str, max_length: int | None = None, replacement: str = "?") -> str:
    """Return the first `max_length` characters of the text on one line, with unprintable characters replaced."""
    return _replaced(text[:max_length], lambda c: replacement)


def escaped(text: str) -> str:
    r"""Return the text on one line, with unprintable characters as Python escapes (`\n`, `\x1b`).

    Use this in messages about something that a person wrote, so that they can find the character.
    """
    return _replaced(text, lambda c: repr(c)[1:-1])


def escaped_json(text: str) -> str:
    r"""Return JSON of one line with unprintable characters as `\u202e`, which a reader decodes to the same value."""
    return _replaced(text, lambda c: json.dumps(c)[1:-1])


def escaped_toml(text: str) -> str:
    r"""Return TOML with unprintable characters as `\U0000202e`, which a reader decodes to the same value."""
    return "\n".join(_replaced(line, lambda c: f"\\U{ord(c):08x}") for line in text.split("\n"))


def unique_names(names: Sequence[str], ids: Sequence[str], is_reserved: Sequence[bool]) -> list[str]:
    """Return the names, with repeated ones replaced so that no two are equal.

    A repeated name is replaced by the id, or by the id and a checksum (`other~aac26433`) if another name is equal to
    the id. Reserved names stay, and must differ from each other. They are those of `other` and `overflow`, which no
    item may have.
    """
    used = set(names)
    if len(used) == len(names):
        return [*names]
    counts, unique = Counter(names), []
    for name, id_, stays in zip(names, ids, is_reserved, strict=True):
        new = name
        if counts[name] > 1 and not stays:
            alternatives = (f"{id_}~{zlib.crc32(f'{n}{id_}'.encode(errors='replace')):08x}" for n in itertools.count())
            new = next(text for text in itertools.chain([id_], alternatives) if text not in used)
            used.add(new)
        unique.append(new)
    return unique


def _replaced(text: str, replacement: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return text.translate({ord(c): replacement(c) for c in set(text) if not c.isprintable()})
