"""The plugins_d sink: feeds Netdata. It serves the plugins.d protocol on a Unix socket, for the small `ebpfmon.plugin`
that each Netdata runs (`relay.py`); or speaks it on stdout, where Netdata runs the daemon itself."""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import re
import socket
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from ebpfmon import SinkError, SinkGoneError, SinkSettings, Snapshot, hookimpl
from ebpfmon_sinks.plugins_d_stream import Stream
from ebpfmon_sinks.relay import DEFAULT_SOCKET

EBPFMON_API_VERSION = 1
_STDIN, _STDOUT = 0, 1
_STANDARD = "-"  # stdin and stdout, as command lines call it
_RELAYS = 16
"""So many at most are fed: one for each Netdata."""
_HELLO_S, _HELLO_BYTES = 5.0, 64
"""How long a relay may take to say its line, and how long that may be."""
_PATIENCE_S = 10.0
"""So long a relay may take to read an update. None is made for it in the meantime: what happens is added up."""
_LONGEST_PATH = 107  # bytes: sockaddr_un.sun_path

log = logging.getLogger(__name__)


class PluginsDSettings(SinkSettings, tag="plugins_d", frozen=True):
    """`[[sinks]] type = "plugins_d"`."""

    socket: str = DEFAULT_SOCKET
    """Where relays connect; `-`: stdin and stdout, of a daemon that Netdata runs as its plugin."""
    group: str = "netdata"
    """Who may connect beside root, if there is such a group; empty: nobody."""

    def __post_init__(self) -> None:
        if self.socket != _STANDARD and not (self.socket.startswith("/") and "\0" not in self.socket):
            raise ValueError(f"socket: '{self.socket}': expected an absolute path, or '-' for stdin and stdout")
        if len(self.socket.encode()) > _LONGEST_PATH:
            raise ValueError(f"socket: longer than {_LONGEST_PATH} bytes, which is all that a Unix socket can have")

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset({"chown"} if self.group and self.socket != _STANDARD else ())

    def open(self) -> PluginsDSink:
        return PluginsDSink(self)


@hookimpl
def ebpfmon_register_sinks() -> Sequence[type[SinkSettings]]:
    return [PluginsDSettings]


class PluginsDSink:
    """Feeds every Netdata that listens, and waits for none."""

    def __init__(self, settings: PluginsDSettings) -> None:
        self._settings = settings
        self._name = settings.name or "plugins_d"
        self._pace = Pace()
        self._readers: set[_Reader] = set()
        self._server: asyncio.Server | None = None
        self._inode: tuple[int, int] | None = None
        self._standard: _Standard | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self._settings.socket == _STANDARD:
            self._standard = await _Standard.open(loop)
            self._readers = {self._standard}
            return self
        try:
            listening = await asyncio.to_thread(_bind, self._settings.socket, self._settings.group)
            self._inode = _inode(self._settings.socket)
            self._server = await loop.create_unix_server(lambda: _Relay(self._name, self._readers), sock=listening)
        except OSError as error:
            raise SinkError(f"listen on '{self._settings.socket}': {error.strerror or error}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server:
            self._server.close()
            if _inode(self._settings.socket) == self._inode:
                os.unlink(self._settings.socket)
        for reader in tuple(self._readers):
            reader.close()

    async def send(self, snapshot: Snapshot) -> None:
        """Hand one snapshot to all readers. Raises SinkGoneError if stdout is the only one, and Netdata left it."""
        if self._standard and self._standard.gone:
            raise SinkGoneError(self._standard.gone)
        interval_s = self._pace.see(snapshot.elapsed_s)
        if interval_s:
            for reader in tuple(self._readers):
                reader.feed(snapshot, interval_s)


class Pace:
    """How many whole seconds lie between two snapshots. Nobody says so; but it can be seen."""

    def __init__(self) -> None:
        self._interval_s = self._before_s = 0

    def see(self, elapsed_s: float) -> int:
        """An interval ends. Returns 0 as long as nothing is known: the first interval begins at any moment.

        The second may be too long, where a tick was left out. So what two in a row agree on counts, if it is less.
        """
        now_s = max(round(elapsed_s), 1)
        if self._before_s and (not self._interval_s or self._before_s == now_s < self._interval_s):
            self._interval_s = now_s
        self._before_s = now_s
        return self._interval_s


class _Reader(asyncio.BaseProtocol):
    """Who is fed, through a transport that keeps what cannot be written at once: one update at most."""

    _transport: asyncio.WriteTransport

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream
        self._full_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.set_write_buffer_limits(high=0)

    def pause_writing(self) -> None:
        self._full_since = asyncio.get_running_loop().time()

    def resume_writing(self) -> None:
        self._full_since = None

    def feed(self, snapshot: Snapshot, interval_s: int) -> None:
        """An interval has ended. What the reader still has to read of the last update is not added to."""
        if self._stream and not self._transport.is_closing():
            self._stream.add(snapshot)
            if self._full_since is None:
                self._transport.write(self._stream.update(interval_s))
            else:
                self.wait(asyncio.get_running_loop().time() - self._full_since)

    def wait(self, seconds: float) -> None:
        """It has not read for so long."""

    def close(self) -> None:
        """Nothing more will come; but what is begun is not left in the middle of a line."""
        self._transport.close()


class _Relay(_Reader, asyncio.Protocol):
    """A relay that has connected. It says one line first: how many seconds it wants between two updates."""

    def __init__(self, sink: str, readers: set[_Reader]) -> None:
        super().__init__()
        self._sink, self._readers, self._hello = sink, readers, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._readers) >= _RELAYS:
            log.warning("sink '%s': a relay is refused, there are %d", self._sink, _RELAYS)
            self._transport.abort()
        else:
            self._readers.add(self)
            self._deadline = asyncio.get_running_loop().call_later(_HELLO_S, self._expect_hello)

    def data_received(self, data: bytes) -> None:
        if self._stream:
            return
        self._hello += data
        said, end, _ = self._hello.partition(b"\n")
        found = re.fullmatch(rb"every ([1-9][0-9]{0,4})", said)
        if end and found:
            self._stream = Stream(int(found[1]))
            log.info("sink '%s': a relay has connected, for an update every %d s", self._sink, int(found[1]))
        elif end or len(self._hello) > _HELLO_BYTES:
            self._drop("it is no relay of ebpfmon's: it does not say how often it wants updates")

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._readers:
            self._readers.remove(self)
            self._deadline.cancel()
            if self._stream:
                log.info("sink '%s': a relay has gone", self._sink)

    def wait(self, seconds: float) -> None:
        if seconds > _PATIENCE_S:
            self._drop(f"it has read nothing for {seconds:.0f} s")

    def _expect_hello(self) -> None:
        if not self._stream:
            self._drop(f"it has said nothing for {_HELLO_S:.0f} s")

    def _drop(self, why: str) -> None:
        log.warning("sink '%s': a relay is cut off: %s", self._sink, why)
        self._stream = None
        self._transport.abort()


class _Standard(_Reader):
    """stdout, that Netdata reads. stdin, on which it says QUIT, is read where Netdata can be there at all."""

    def __init__(self) -> None:
        super().__init__(Stream(1))
        self.gone = ""
        self._forget_stdin: Callable[[], object] = lambda: None

    @classmethod
    async def open(cls, loop: asyncio.AbstractEventLoop) -> _Standard:
        """Raises SinkError where stdout is a file."""
        self, stdout = cls(), os.fdopen(_duplicate(_STDOUT), "wb", buffering=0)
        try:
            await loop.connect_write_pipe(lambda: self, stdout)
        except (OSError, ValueError) as error:
            stdout.close()
            raise SinkError(f"write to stdout: {error}: Netdata gives its plugins a pipe") from error
        with suppress(OSError):  # it is closed
            if stat.S_ISFIFO(mode := os.fstat(_STDIN).st_mode) or stat.S_ISSOCK(mode):
                loop.add_reader(_STDIN, self._hear)
                self._forget_stdin = lambda: loop.remove_reader(_STDIN)
        return self

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = self.gone or "Netdata has closed stdout"

    def close(self) -> None:
        self._forget_stdin()
        super().close()

    def _hear(self) -> None:
        said = b""
        with suppress(OSError):
            said = os.read(_STDIN, 4096)
        if not said:  # its end alone says nothing: it may never have been Netdata's
            self._forget_stdin()
        elif b"QUIT" in said.split():
            self.gone = "Netdata says QUIT"


def _duplicate(fd: int) -> int:
    """A descriptor of the same pipe. Opened anew where that works, as O_NONBLOCK would be set for others as well."""
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.dup(fd)


def _bind(path: str, group: str) -> socket.socket:
    """A socket there that does not listen yet, so that nobody connects before it has its owner and mode."""
    if not os.path.isdir(directory := os.path.dirname(path)):
        os.makedirs(directory)
        os.chmod(directory, 0o755)  # noqa: S103  # whatever the umask: the socket has a mode of its own
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise SinkError(f"listen on '{path}': something else is there: remove it, or choose another 'socket'")
        if _is_alive(path):
            raise SinkError(f"listen on '{path}': another daemon does: stop it, or choose another 'socket'")
        os.unlink(path)  # of one that was killed
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(path)
        if group:
            _give(path, group)
        os.chmod(path, 0o660)
    except BaseException:
        made.close()
        raise
    return made


def _give(path: str, group: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        log.info("there is no group '%s': root alone may connect to '%s'", group, path)


def _is_alive(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)
        try:
            caller.connect(path)
        except BlockingIOError:  # too many wait to be accepted
            return True
        except ConnectionRefusedError:
            return False
        return True


def _inode(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None
