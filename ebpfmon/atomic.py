"""Write files all at once."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a text file with this mode, so that others see either the old file or the whole new one.

    The directory must exist. Raises OSError, and leaves everything as it was then.
    """
    # in the same directory, because a file can be renamed within one file system only
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)  # or a crash could leave an empty file under the final name
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
