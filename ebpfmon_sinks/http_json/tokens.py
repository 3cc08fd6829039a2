"""A secret in a file, which may be replaced at any time."""

from __future__ import annotations

import re

from ebpfmon import SinkError

_TOKEN = re.compile(rb"[!-~]+")
_LONGEST = 4096


def read(path: str) -> str:
    """The token, from the file's only line. Blocks. Raises SinkError."""
    try:
        with open(path, "rb") as file:
            text = file.read(_LONGEST + 1).strip()
    except OSError as error:
        raise SinkError(f"read the token in '{path}': {error.strerror}") from None
    if not _TOKEN.fullmatch(text) or len(text) > _LONGEST:
        raise SinkError(f"read the token in '{path}': expected one line of printable ASCII without blanks")
    return text.decode()
