"""Find out whether the directory that a sink writes to exists."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ebpfmon import SinkError
from ebpfmon_sinks.unix_socket import OWN_FOLDER

_OF_THE_UNIT = (Path(OWN_FOLDER), Path("/var/log/ebpfmon"))
"""Directories that systemd creates when it starts ebpfmon."""


def require_directory(path: str, failure: str) -> None:
    """Raise SinkError, which begins with `failure`, if a path is a directory, or if its parent is missing. Blocking."""
    parent = Path(path).absolute().parent
    try:
        if not stat.S_ISDIR(os.stat(parent).st_mode):
            raise SinkError(f"{failure}: '{parent}' is not a directory")
        if os.path.isdir(path):
            raise SinkError(f"{failure}: Is a directory")
    except (FileNotFoundError, NotADirectoryError) as error:
        if parent not in _OF_THE_UNIT:
            raise SinkError(f"{failure}: {error.strerror}: '{parent}'; create this directory") from None
    except OSError:  # another user may be able to reach it
        return
