"""Unix sockets that a sink listens on: their paths, groups and files."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

from ebpfmon import SinkError

OWN_FOLDER = "/run/ebpfmon"
"""The only folder that is created if it is missing. systemd creates it for the service."""
_MAX_PATH_BYTES = 107  # sockaddr_un.sun_path


def check_path(path: str) -> None:
    """Raise ValueError if a path cannot be that of a Unix socket."""
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"socket: '{path}': expected an absolute path")
    if len(path.encode()) > _MAX_PATH_BYTES:
        raise ValueError(f"socket: longer than {_MAX_PATH_BYTES} bytes, the limit for the path of a Unix socket")


class UnixSocket:
    """A bound Unix socket. Its owner and a group may connect to it. `close` removes its file.

    It does not listen yet, so nobody connects before its group and mode are set.
    """

    def __init__(self, path: str, group_id: int = -1) -> None:
        """Bind the socket. Blocking. Raises SinkError and OSError.

        A socket that a killed daemon has left is replaced. `group_id` -1 means the group of the daemon.
        """
        if not os.path.isdir(folder := os.path.dirname(path)):
            if folder != OWN_FOLDER:
                raise SinkError(f"cannot listen on '{path}': there is no folder '{folder}'; create it")
            os.makedirs(folder)
            os.chmod(folder, 0o755)  # noqa: S103  # the socket has its own, stricter mode
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise SinkError(
                    f"cannot listen on '{path}': it exists and is not a socket; remove it, or change the setting socket"
                )
            if _is_alive(path):
                raise SinkError(
                    f"cannot listen on '{path}': another daemon uses it; stop that daemon, or change the setting socket"
                )
            os.unlink(path)
        self.socket = socket.socket(socket.AF_UNIX)
        self._path = path
        self._inode: tuple[int, int] | None = None
        try:
            self.socket.bind(path)
            self._inode = _inode(path)
            if group_id != -1:
                _set_group(path, group_id)
            os.chmod(path, 0o660)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket and remove its file, unless another daemon has replaced it. Closing twice is harmless."""
        self.socket.close()
        if self._inode and _inode(self._path) == self._inode:
            os.unlink(self._path)


def _set_group(path: str, group_id: int) -> None:
    try:
        os.chown(path, -1, group_id)
    except PermissionError as error:
        raise SinkError(f"cannot listen on '{path}': cannot set its group: {error.strerror}") from error


def _is_alive(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(path)
        except BlockingIOError:  # the queue of connections to accept is full
            return True
        except ConnectionRefusedError:
            return False
        return True


def _inode(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        status = os.stat(path)
        return status.st_dev, status.st_ino
    return None
