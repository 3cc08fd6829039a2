"""The plugins_d sink on stdin and stdout, for a daemon that Netdata runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ebpfmon import SinkError, SinkGoneError
from ebpfmon_sinks.plugins_d import sink as plugins_d
from ebpfmon_sinks.plugins_d.settings import PluginsDSettings
from ebpfmon_sinks.plugins_d.sink import PluginsDSink, open_stdio
from tests.unit.netdata import Netdata
from tests.unit.support import chart, data
from tests.unit.test_plugins_d import run, snapshot_at, until
from tests.unit.test_plugins_d_stream import READ


@contextmanager
def piped_stdio(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Replace the sink's stdin and stdout by pipes. Yield the descriptors to write to it and to read from it."""
    with ExitStack() as stack:
        stdin, to_sink = os.pipe()
        from_sink, stdout = os.pipe()
        for fd in (stdin, stdout):
            stack.callback(os.close, fd)
        monkeypatch.setattr(plugins_d, "_STDIN", stdin)
        monkeypatch.setattr(plugins_d, "_STDOUT", stdout)
        yield to_sink, from_sink


def gone_reason(sink: PluginsDSink) -> str:
    (reader,) = sink.readers
    return reader.gone_reason


def is_full(sink: PluginsDSink) -> bool:
    (reader,) = sink.readers
    assert isinstance(reader, plugins_d._Stdout)
    return reader.lines.pending


def test_updates_are_written_to_stdout_until_netdata_sends_quit(monkeypatch: pytest.MonkeyPatch) -> None:
    netdata = Netdata()

    async def work() -> None:
        async with open_stdio() as sink:
            for n in range(4):
                await sink.send(snapshot_at(n))
            netdata.read(os.read(from_sink, 65536))
            os.write(to_sink, b"QUIT\n")
            await until(lambda: gone_reason(sink))
            with pytest.raises(SinkGoneError, match="QUIT"):
                await sink.send(snapshot_at(4))

    with piped_stdio(monkeypatch) as (to_sink, from_sink):
        run(work)
        os.close(to_sink)
        os.close(from_sink)
    assert netdata.charts["x.io"].shows("r") == [2, 3]


def test_a_closed_stdout_ends_the_sink_but_a_closed_stdin_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    read, ends = plugins_d._Stdout._read_stdin, []

    def read_stdin(reader: plugins_d._Stdout) -> None:
        read(reader)
        ends.append(reader)

    async def work() -> None:
        async with open_stdio() as sink:
            os.close(to_sink)
            await until(lambda: len(ends) == 1)
            await sink.send(snapshot_at(0))
            await sink.send(snapshot_at(1))
            os.close(from_sink)
            await until(lambda: gone_reason(sink))
            with pytest.raises(SinkGoneError, match="closed stdout"):
                await sink.send(snapshot_at(2))

    monkeypatch.setattr(plugins_d._Stdout, "_read_stdin", read_stdin)
    with piped_stdio(monkeypatch) as (to_sink, from_sink):
        run(work)


def test_a_slow_reader_of_stdout_gets_whole_lines_and_all_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, netdata, received = chart(*(replace(READ, id=f"{n}") for n in range(5000))), Netdata(), bytearray()

    async def work() -> None:
        async with open_stdio() as sink:
            for n in range(20):
                await sink.send(replace(snapshot_at(n), charts=(data(wide, *[n] * 5000),)))
            os.set_blocking(from_sink, False)
            await until(lambda: read_all() and not is_full(sink))
            await sink.send(replace(snapshot_at(20), charts=(data(wide, *[20] * 5000),)))
            await until(lambda: read_all() and not is_full(sink))
            read_all()

    def read_all() -> bool:
        with suppress(BlockingIOError):
            while more := os.read(from_sink, 1 << 20):
                received.extend(more)
        return True

    with piped_stdio(monkeypatch) as (to_sink, from_sink):
        run(work)
        os.close(to_sink)
        os.close(from_sink)
    netdata.read(bytes(received))
    assert sum(netdata.charts["x.io"].shows("9")) == sum(range(2, 21))


def test_a_file_as_stdout_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        monkeypatch.setattr(plugins_d, "_STDOUT", file.fileno())
        with pytest.raises(SinkError, match="Netdata gives its plugins a pipe"):
            run(lambda: PluginsDSettings(socket="-").open().__aenter__())
