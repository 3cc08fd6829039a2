"""The log sink: text for people, JSON lines, files that are rotated, readers that are slow or gone."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import socket
import stat
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import Dimension, Kind, SinkError, SinkGoneError, Snapshot, to_json
from ebpfmon_sinks import log
from ebpfmon_sinks.log import LogSettings, render
from tests.unit.support import chart, snapshot, table, values

IO = chart(Dimension("r", "read", ("r",)), Dimension("w", "write", ("w",)))
BYTES = chart(Dimension("r", "read", ("r",)), units="bytes/s")
OWN = chart(Dimension("rss", "rss", ("rss",)), kind=Kind.LEVEL, units="MB", family="ebpfmon")
SNAPSHOTS = [snapshot(f"{n}" * 500, [values(IO, n, 2 * n)]) for n in range(300)]
Ends = tuple[int, int]


def line_of(given: Snapshot) -> bytes:
    return msgspec.json.encode(to_json(given)) + b"\n"


def words(given: Snapshot, processes: int = 0) -> list[str]:
    """The rendered lines, with any run of blanks as one."""
    return [" ".join(line.split()) for line in render(given, processes)]


def send(settings: LogSettings, *given: Snapshot, between: Callable[[], object] = lambda: None) -> None:
    async def run() -> None:
        async with asyncio.timeout(10), settings.open() as sink:
            for one in given:
                await sink.send(one)
                between()

    asyncio.run(run())


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ends], Ends]:
    """Makes the second of two descriptors what the sink takes for stdout."""

    def set_to(ends: Ends) -> Ends:
        monkeypatch.setattr(log, "_STREAMS", {"stdout": ends[1]})
        return ends

    return set_to


@pytest.fixture(params=["pipe", "socket", "terminal"])
def ends(request: pytest.FixtureRequest, stdout: Callable[[Ends], Ends]) -> Iterator[Ends]:
    """What a daemon's stdout may be: (to read, to write)."""
    if request.param == "pipe":
        made: Ends = os.pipe()
    elif request.param == "socket":
        left, right = socket.socketpair()
        made = left.detach(), right.detach()
    else:
        made = pty.openpty()
        tty.setraw(made[1])
    yield stdout(made)
    for end in made:
        os.close(end)


def fill(fd: int) -> int:
    """Write until no more goes in; how much that was."""
    os.set_blocking(fd, False)
    size = 0
    try:
        while True:
            size += os.write(fd, b"x" * 1024)
    except BlockingIOError:
        os.set_blocking(fd, True)
        return size


@pytest.mark.timeout(5)
def test_a_reader_that_does_not_read_stops_the_sink_alone_and_gets_all_in_order_later(ends: Ends) -> None:
    reader, writer = ends

    async def run() -> bytes:
        before, got = fill(writer), b""
        expected = before + sum(len(line_of(s)) for s in SNAPSHOTS)
        async with asyncio.timeout(4), LogSettings(format="json").open() as sink:

            async def send_all() -> None:
                for given in SNAPSHOTS:
                    await sink.send(given)

            sending = asyncio.create_task(send_all())
            try:
                for _ in range(100):
                    await asyncio.sleep(0)
                assert not sending.done()
                while len(got) < expected:
                    got += await asyncio.to_thread(os.read, reader, 1 << 16)
            finally:
                await asyncio.gather(sending, return_exceptions=True)
        return got[before:]

    assert asyncio.run(run()) == b"".join(line_of(s) for s in SNAPSHOTS)


def test_the_stream_itself_stays_as_the_shell_made_it(ends: Ends) -> None:
    states: list[bool] = []
    send(LogSettings(), snapshot(), between=lambda: states.append(os.get_blocking(ends[1])))
    assert [*states, os.get_blocking(ends[1])] == [True, True]
    assert os.read(ends[0], 100)


@pytest.mark.parametrize("when", ["before it is opened", "between two snapshots"])
def test_a_sink_whose_reader_went_away_says_that_it_is_gone(stdout: Callable[[Ends], Ends], when: str) -> None:
    reader, writer = stdout(os.pipe())
    left = [reader]
    if when == "before it is opened":
        os.close(left.pop())
    with pytest.raises(SinkGoneError, match="the reader of stdout has gone"):
        send(LogSettings(), snapshot(), snapshot(), between=lambda: os.close(left.pop()))
    os.close(writer)


def test_a_file_gets_one_line_of_json_for_each_snapshot_behind_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    send(LogSettings(format="json", path=str(path)), *SNAPSHOTS[:3])
    first, *lines = path.read_text().splitlines()
    assert first == "before"
    assert [json.loads(line) for line in lines] == [to_json(s) for s in SNAPSHOTS[:3]]


def test_a_new_file_can_be_read_by_its_owner_and_group_alone(tmp_path: Path) -> None:
    send(LogSettings(path=str(tmp_path / "log")), snapshot())
    assert not stat.S_IMODE((tmp_path / "log").stat().st_mode) & 0o027


@pytest.mark.parametrize("rotate", ["rename", "delete", "replace"])
def test_a_file_that_was_rotated_is_made_anew_and_loses_no_line(tmp_path: Path, rotate: str) -> None:
    path, old, names = tmp_path / "log", tmp_path / "log.1", []

    def between() -> None:
        names.append(len(os.listdir("/proc/self/fd")))
        if rotate == "delete" and not old.exists():
            old.hardlink_to(path)
            path.unlink()
        elif not old.exists():
            path.rename(old)
            if rotate == "replace":
                path.touch()

    send(LogSettings(format="json", path=str(path)), *SNAPSHOTS[:4], between=between)
    assert old.read_bytes() == line_of(SNAPSHOTS[0])
    assert path.read_bytes() == b"".join(line_of(s) for s in SNAPSHOTS[1:4])
    assert len(set(names)) == 1, "a descriptor is left open"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/dev/full", "write '/dev/full': No space"),
        ("/no/such/x", "open '/no/such/x': No such"),
        ("/", "open '/': Is a"),
    ],
)
def test_a_file_that_cannot_be_written_is_an_error_that_names_it(path: str, said: str) -> None:
    with pytest.raises(SinkError, match=said):
        send(LogSettings(path=path), snapshot())


@pytest.mark.timeout(10)
def test_a_named_pipe_that_nobody_reads_does_not_keep_the_daemon_from_ending(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def run() -> None:
        try:
            async with asyncio.timeout(1):
                await LogSettings(path=str(path)).open().__aenter__()
        finally:  # a thread that waits for a reader would keep asyncio.run() from returning
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    with pytest.raises(SinkError):
        asyncio.run(run())


@pytest.mark.parametrize("format_", ["text", "json"])
def test_descriptors_are_closed_with_the_sink(tmp_path: Path, format_: Literal["text", "json"]) -> None:
    before = os.listdir("/proc/self/fd")
    send(LogSettings(path=str(tmp_path / "log"), format=format_), snapshot())
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_text_shows_each_chart_with_its_rates_and_units_and_what_ebpfmon_costs() -> None:
    first, *lines = words(snapshot("host1", [values(IO, 41, -3), values(OWN, 40.5), values(BYTES, 750)]))
    assert "host1 (0.500 s)" in first
    assert lines == [
        "VFS Calls read 82 write -6 calls/s",
        "VFS Calls read 1.5 kB bytes/s",
        "ebpfmon rss 40.5 MB",
    ]


def test_text_says_when_a_table_could_not_be_read() -> None:
    given = Snapshot(host="h", time_s=0, elapsed_s=1, complete=False, charts=())
    assert "incomplete" in words(given)[0]
    assert "incomplete" not in words(snapshot())[0]


@pytest.mark.parametrize(
    ("delta", "shown"),
    [(0, "0 B"), (499, "998 B"), (500, "1.0 kB"), (-750, "-1.5 kB"), (499_400, "998.8 kB"), (500_000, "1.0 MB"),
     (2_500_000_000, "5.0 GB"), (2_500_000_000_000, "5000.0 GB")],
)  # fmt: skip
def test_bytes_are_shown_in_units_that_fit(delta: int, shown: str) -> None:
    assert words(snapshot(charts=[values(BYTES, delta)]))[1] == f"VFS Calls read {shown} bytes/s"


def test_the_busiest_processes_are_shown_the_busiest_first() -> None:
    rows = [(n, b"proc%d" % n, calls, 0) for n, calls in ((101, 5), (102, 50), (103, 0), (104, 20))]
    given = snapshot(tables={"t": table(rows, overflow_calls=9)})
    lines = [line.split() for line in words(given, 2)]
    assert [line[:3] for line in lines if line[0] in {"101", "102", "103", "104"}] == [
        ["102", "proc102", "100"], ["104", "proc104", "40"],
    ]  # fmt: skip
    assert ["overflow", "9"] in [line[:2] for line in lines]
    assert not [line for line in words(given) if "proc" in line]


@given(
    st.binary(max_size=16)
    | st.sampled_from([b"\x1b[2J\x1b[H", b"a\nb\rc", b"\xc2\x9b31m", b"\xff\xfe", b"\xe2\x80\xae"])
)
def test_no_name_that_a_process_gives_itself_reaches_the_terminal_as_a_control(comm: bytes) -> None:
    lines = list(render(snapshot(tables={"t": table([(7, comm, 5, 0)])}), 5))
    assert all(line.isprintable() for line in lines)
    assert len([line for line in lines if line.split()[:1] == ["7"]]) == 1
