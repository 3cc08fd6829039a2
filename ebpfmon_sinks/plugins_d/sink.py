"""Send snapshots to Netdata in the plugins.d protocol.

The daemon serves the protocol on a Unix socket. The small `ebpfmon.plugin` (`relay.py`) of each Netdata connects to it.
If Netdata runs the daemon itself, the daemon writes the protocol to stdout.
"""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

from ebpfmon import LineWriter, SinkError, SinkGoneError, Snapshot, reopen_nonblocking
from ebpfmon_sinks.accept import Acceptor
from ebpfmon_sinks.plugins_d.stream import Stream
from ebpfmon_sinks.unix_socket import UnixSocket

_STDIN, _STDOUT = 0, 1
_MAX_RELAYS = 16
"""How many relays may be connected at once. Each Netdata has one."""
_HELLO_S, _HELLO_BYTES = 5.0, 64
"""How long a relay may take to send its first line, and how long that line may be."""
_STALL_LIMIT_S = 10.0
"""How long a relay may take to read an update. Intervals that pass in the meantime are summed in the next update."""
_CLOSE_S = 0.5
"""How long Netdata may take to read what is buffered when the sink ends."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_socket(path: str, group: str, name: str) -> AsyncIterator[PluginsDSink]:
    """Yield a sink that serves relays on a Unix socket. Raises SinkError.

    The members of `group` may connect besides root. `name` is the sink's name in messages.
    """
    relays: set[_Relay] = set()
    try:
        bound = await asyncio.to_thread(_bind, path, group)
        bound.socket.listen()
    except OSError as error:
        raise SinkError(f"cannot listen on '{path}': {error.strerror or error}") from error
    connecting: set[asyncio.Task[object]] = set()

    def admit(sock: socket.socket, address: object, since_s: float) -> bool:
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(lambda: _Relay(name, relays), sock))
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return True

    acceptor = Acceptor(bound.socket, admit, lambda since_s: None)
    try:
        yield PluginsDSink(relays)
    finally:
        acceptor.close()
        bound.close()
        await _close(relays)


async def _close(relays: set[_Relay]) -> None:
    """Close all connections, at once if a relay does not read."""
    closing = tuple(relays)
    try:
        for relay in closing:
            relay.close()
        if closing:
            await asyncio.wait([relay.lost for relay in closing], timeout=_CLOSE_S)
    finally:
        for relay in closing:
            relay.abort()
    await asyncio.sleep(0)  # asyncio closes the sockets of aborted connections now


@asynccontextmanager
async def open_stdio() -> AsyncIterator[PluginsDSink]:
    """Yield a sink that writes to stdout, for a Netdata that runs the daemon. Raises SinkError if stdout is a file."""
    try:
        fd = reopen_nonblocking(_STDOUT)
    except OSError as error:
        raise SinkError(f"cannot write to stdout: {error.strerror}") from error
    if not _is_pipe_or_socket(fd) and not os.isatty(fd):
        os.close(fd)
        raise SinkError("cannot write to stdout: it is a file; Netdata gives its plugins a pipe")
    try:
        stdout = _Stdout(LineWriter(fd))
    except OSError as error:
        raise SinkError(f"cannot write to stdout: {error.strerror}") from error
    try:
        yield PluginsDSink({stdout})
    finally:
        await stdout.close()


class PluginsDSink:
    """Sends snapshots to every connected Netdata, and waits for none."""

    def __init__(self, readers: Collection[_Relay | _Stdout]) -> None:
        """`readers` may change at any time."""
        self.readers = readers
        self._interval = IntervalEstimate()

    async def send(self, snapshot: Snapshot) -> None:
        """Send one snapshot to all readers.

        Raises SinkGoneError if the sink writes to stdout, and Netdata closed stdout or sent QUIT.
        """
        interval_s = self._interval.update(snapshot.elapsed_s)
        for reader in tuple(self.readers):
            if reader.gone_reason:
                raise SinkGoneError(reader.gone_reason)
            if interval_s:
                reader.send(snapshot, interval_s)


class IntervalEstimate:
    """The number of whole seconds between two snapshots, estimated from their lengths."""

    def __init__(self) -> None:
        self._interval_s = self._previous_s = 0

    def update(self, elapsed_s: float) -> int:
        """Add the length of an interval. Return the estimate in seconds, or 0 while there is none.

        The first interval is shorter than the others, and the second is too long if a tick was left out. Therefore a
        shorter length replaces the estimate once two intervals in a row have it.
        """
        now_s = max(round(elapsed_s), 1)
        if self._previous_s and (not self._interval_s or self._previous_s == now_s < self._interval_s):
            self._interval_s = now_s
        self._previous_s = now_s
        return self._interval_s


class _Relay(asyncio.Protocol):
    """A connected relay. Its first line says how many seconds it wants between two updates.

    The transport buffers at most one update.
    """

    _transport: asyncio.WriteTransport  # set by connection_made, which asyncio calls first
    gone_reason = ""  # another relay may always connect

    def __init__(self, sink: str, relays: set[_Relay]) -> None:
        self._sink, self._relays, self._hello = sink, relays, b""
        self._stream: Stream | None = None
        self._full_since: float | None = None
        self.lost = asyncio.get_running_loop().create_future()
        """Done once the connection is closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        if len(self._relays) >= _MAX_RELAYS:
            log.warning("sink '%s': refused a relay: %d are connected already", self._sink, _MAX_RELAYS)
            self._transport.abort()
        else:
            self._relays.add(self)
            self._deadline = asyncio.get_running_loop().call_later(_HELLO_S, self._expect_hello)

    def data_received(self, data: bytes) -> None:
        if self._stream:
            return
        self._hello += data
        line, end, _ = self._hello.partition(b"\n")
        match = re.fullmatch(rb"every ([1-9][0-9]{0,4})", line)
        if end and match:
            self._stream = Stream(int(match[1]))
            log.info("sink '%s': a relay has connected; it wants an update every %d s", self._sink, int(match[1]))
        elif end or len(self._hello) > _HELLO_BYTES:
            self._drop("its first line is not 'every SECONDS', so it is not ebpfmon's relay")

    def pause_writing(self) -> None:
        self._full_since = asyncio.get_running_loop().time()

    def resume_writing(self) -> None:
        self._full_since = None

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(None)
        if self in self._relays:
            self._relays.remove(self)
            self._deadline.cancel()
            if self._stream:
                log.info("sink '%s': a relay has disconnected", self._sink)

    def send(self, snapshot: Snapshot, interval_s: int) -> None:
        """Add an interval. Write an update, unless the relay has not read the previous one yet."""
        if not self._stream or self._transport.is_closing():
            return
        self._stream.add(snapshot)
        if self._full_since is None:
            self._transport.write(self._stream.update(interval_s))
        elif (seconds := asyncio.get_running_loop().time() - self._full_since) > _STALL_LIMIT_S:
            self._drop(f"it has read nothing for {seconds:.0f} s")

    def close(self) -> None:
        """Write what is buffered, and close the connection."""
        self._transport.close()

    def abort(self) -> None:
        """Close the connection now. The relay drops a line that is cut."""
        self._transport.abort()

    def _expect_hello(self) -> None:
        if not self._stream:
            self._drop(f"it has sent nothing for {_HELLO_S:.0f} s")

    def _drop(self, reason: str) -> None:
        log.warning("sink '%s': disconnected a relay: %s", self._sink, reason)
        self._stream = None
        self.abort()


class _Stdout:
    """The Netdata that runs the daemon and reads stdout. It may send QUIT on stdin, if that is a pipe or a socket."""

    def __init__(self, lines: LineWriter) -> None:
        self.lines = lines
        self.gone_reason = ""
        """Why nobody will ever read again."""
        self._stream, self._loop = Stream(1), asyncio.get_running_loop()
        if _is_pipe_or_socket(lines.fd):  # only these can be closed by the reader
            self._loop.add_reader(lines.fd, self._closed_by_reader)
        if _is_pipe_or_socket(_STDIN):
            self._loop.add_reader(_STDIN, self._read_stdin)

    def send(self, snapshot: Snapshot, interval_s: int) -> None:
        """Add an interval. Write an update, unless Netdata has not read the previous one yet."""
        self._stream.add(snapshot)
        if not self.lines.pending:
            self.lines.start(self._stream.update(interval_s))
            self._write()

    async def close(self) -> None:
        """Write what Netdata reads at once, and leave stdout."""
        try:
            with suppress(OSError):
                await self.lines.drain(_CLOSE_S)
        finally:
            for fd in (self.lines.fd, _STDIN):
                self._loop.remove_reader(fd)
            self._loop.remove_writer(self.lines.fd)
            self.lines.close()

    def _write(self) -> None:
        try:
            self.lines.write()
        except OSError:
            self._closed_by_reader()
        if self.lines.pending:
            self._loop.add_writer(self.lines.fd, self._write)
        else:
            self._loop.remove_writer(self.lines.fd)

    def _closed_by_reader(self) -> None:
        self.gone_reason = self.gone_reason or "Netdata has closed stdout"
        self._loop.remove_reader(self.lines.fd)

    def _read_stdin(self) -> None:
        data = b""
        with suppress(OSError):
            data = os.read(_STDIN, 4096)
        if not data:  # end of file is no reason to stop: stdin may not be Netdata's
            self._loop.remove_reader(_STDIN)
        elif b"QUIT" in data.split():
            self.gone_reason = "Netdata sent QUIT"


def _is_pipe_or_socket(fd: int) -> bool:
    with suppress(OSError):  # the descriptor is closed
        return stat.S_ISFIFO(mode := os.fstat(fd).st_mode) or stat.S_ISSOCK(mode)
    return False


def _bind(path: str, group: str) -> UnixSocket:
    """Return a socket that members of the group may connect to, or only root if there is no such group."""
    try:
        group_id = grp.getgrnam(group).gr_gid if group else -1
    except KeyError:
        log.info("no group '%s': only root may connect to '%s'", group, path)
        group_id = -1
    return UnixSocket(path, group_id)
