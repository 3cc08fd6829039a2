"""Write files atomically."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a text file atomically: readers see either the old file or the complete new one.

    The directory must exist. Raises OSError, and changes nothing, if the file cannot be written.
    """
    # The temporary file is in the same directory because a rename cannot cross file systems.
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)  # Otherwise a crash could leave an empty file under the final name.
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
