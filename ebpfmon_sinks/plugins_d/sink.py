"""Feed Netdata. The daemon serves the plugins.d protocol on a Unix socket for the small `ebpfmon.plugin` that each
Netdata runs (`relay.py`). If Netdata runs the daemon itself, the daemon speaks the protocol on stdout."""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress

from ebpfmon import SinkError, SinkGoneError, Snapshot, reopen_nonblocking
from ebpfmon_sinks.plugins_d.stream import Stream

_STDIN, _STDOUT = 0, 1
_RELAYS = 16
"""How many relays at most are fed: one for each Netdata."""
_HELLO_S, _HELLO_BYTES = 5.0, 64
"""How long a relay may take to say its line, and how long that may be."""
_PATIENCE_S = 10.0
"""How long a relay may take to read an update. None is made for it in the meantime: what happens is added up."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(path: str, group: str, name: str) -> AsyncIterator[PluginsDSink]:
    """Yield a sink that feeds the relays that connect to a Unix socket. Raise SinkError.

    `group` may connect beside root. `name` is how messages call the sink.
    """
    readers: set[_Reader] = set()
    try:
        listening = await asyncio.to_thread(_bind, path, group)
        inode = _inode(path)
        server = await asyncio.get_running_loop().create_unix_server(lambda: _Relay(name, readers), sock=listening)
    except OSError as error:
        raise SinkError(f"listen on '{path}': {error.strerror or error}") from error
    try:
        yield PluginsDSink(readers)
    finally:
        server.close()
        if _inode(path) == inode:
            os.unlink(path)
        for reader in tuple(readers):
            reader.close()


@asynccontextmanager
async def on_standard_streams() -> AsyncIterator[PluginsDSink]:
    """Yield a sink that feeds the Netdata that reads stdout. Raise SinkError if stdout is a file."""
    standard = await _Standard.open(asyncio.get_running_loop())
    try:
        yield PluginsDSink({standard})
    finally:
        standard.close()


class PluginsDSink:
    """Feed every Netdata that listens, and wait for none."""

    def __init__(self, readers: Collection[_Reader]) -> None:
        """`readers` come and go."""
        self.readers = readers
        self._pace = Pace()

    async def send(self, snapshot: Snapshot) -> None:
        """Hand one snapshot to all readers. Raise SinkGoneError if a reader has gone for good: then it is the only
        one."""
        interval_s = self._pace.see(snapshot.elapsed_s)
        for reader in tuple(self.readers):
            if reader.gone:
                raise SinkGoneError(reader.gone)
            if interval_s:
                reader.feed(snapshot, interval_s)


class Pace:
    """Find out how many whole seconds are between two snapshots. Nobody says it, but it can be seen."""

    def __init__(self) -> None:
        self._interval_s = self._before_s = 0

    def see(self, elapsed_s: float) -> int:
        """Take in the length of an interval, and return the seconds between snapshots; 0 as long as they are not known.

        The first interval begins at any moment, and the second may be too long because a tick was left out. So a
        shorter one counts as soon as two in a row agree on it.
        """
        now_s = max(round(elapsed_s), 1)
        if self._before_s and (not self._interval_s or self._before_s == now_s < self._interval_s):
            self._interval_s = now_s
        self._before_s = now_s
        return self._interval_s


class _Reader(asyncio.BaseProtocol):
    """Somebody who is fed, through a transport that keeps what cannot be written at once: one update at most."""

    _transport: asyncio.WriteTransport  # asyncio sets it before anything else, by connection_made

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream
        self.gone = ""
        """Why it has gone for good; empty if it has not, or if others may come."""
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
        """Take in an interval. Write an update, unless the reader still has to read of the last one."""
        if self._stream and not self._transport.is_closing():
            self._stream.add(snapshot)
            if self._full_since is None:
                self._transport.write(self._stream.update(interval_s))
            else:
                self.wait(asyncio.get_running_loop().time() - self._full_since)

    def wait(self, seconds: float) -> None:
        """Decide what to do about a reader that has not read for so long."""

    def close(self) -> None:
        """End, but not in the middle of a line."""
        self._transport.close()


class _Relay(_Reader, asyncio.Protocol):
    """A relay that has connected. Its first line says how many seconds it wants between two updates."""

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
    """stdout, which Netdata reads. stdin, on which it says QUIT, is read if it is a pipe or a socket."""

    def __init__(self) -> None:
        super().__init__(Stream(1))
        self._forget_stdin: Callable[[], object] = lambda: None

    @classmethod
    async def open(cls, loop: asyncio.AbstractEventLoop) -> _Standard:
        """Return it connected. Raise SinkError if stdout is a file."""
        self, stdout = cls(), os.fdopen(reopen_nonblocking(_STDOUT), "wb", buffering=0)
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


def _bind(path: str, group: str) -> socket.socket:
    """Return a socket that does not listen yet, so that nobody connects before it has its owner and mode."""
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
