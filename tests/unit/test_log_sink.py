"""The log sink: text, JSON lines, rotated files, and readers that are slow or gone."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import resource
import select
import socket
import stat
import threading
import tty
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import (
    VALUE,
    Chart,
    ChartData,
    Column,
    Dimension,
    Kind,
    LabelSource,
    Rows,
    SinkError,
    SinkGoneError,
    Snapshot,
    TableHarvest,
    TableView,
    to_json,
)
from ebpfmon.testing import keyed_table, view
from ebpfmon_sinks.log import settings as log
from ebpfmon_sinks.log.settings import LogSettings, message
from tests.unit.support import IDENTITY, chart, data, snapshot, table

READ = Column(id="read", header="READ", fields=("read_calls",))
BYTES_READ = Column(id="rbytes", header="RBYTES", fields=("read_bytes",), units="bytes/s")
IO = chart(Dimension("r", "read", ("r",)), Dimension("w", "write", ("w",)))
BYTES = chart(Dimension("r", "read", ("r",)), units="bytes/s")
OWN = chart(Dimension("rss", "rss", ("rss",)), kind=Kind.GAUGE, units="MB", family="ebpfmon")
SNAPSHOTS = [snapshot(f"{n}" * 500, [data(IO, n, 2 * n)]) for n in range(300)]
Ends = tuple[int, int]


def line_of(given: Snapshot) -> bytes:
    return msgspec.json.encode(to_json(given)) + b"\n"


def words(given: Snapshot, processes: int = 0, destinations: int = 0) -> list[str]:
    """Return the rendered lines, with runs of spaces as one space."""
    settings = LogSettings(processes=processes, destinations=destinations)
    return [" ".join(line.split()) for line in render(given, settings)]


def render(given: Snapshot, settings: LogSettings) -> list[str]:
    return message(given, settings).split("\n")


def by_process(harvest: TableHarvest, groups: Sequence[str | None] = ()) -> dict[str, TableView]:
    """Return a table `t` with columns for reads."""
    of_rows = {"application": groups} if groups else None
    return {"t": view(harvest, columns=(READ, BYTES_READ), groups=of_rows)}


def by_key(of: str, table: str, names: Sequence[str], *columns: tuple[str, Dimension, Sequence[int]]) -> ChartData:
    """Return a chart by key, with the amounts of every key for each dimension. The last key is `other`."""
    made = Chart(
        id=of, title="T", units=columns[0][0], family="Network", priority=1, labels=("key",), table=table,
        dimensions=tuple(dimension for _, dimension, _ in columns),
    )  # fmt: skip
    numbers = [[deltas[n] for _, _, deltas in columns] for n in range(len(names))]
    found = data(made, series={(name,): of for name, of in zip(names, numbers[:-1], strict=False)}, other=numbers[-1])
    return replace(found, index=replace(found.index, names=tuple((name,) for name in names)))


def outbound(names: Sequence[str], sent: Sequence[int], calls: Sequence[int], retransmits: Sequence[int]) -> Snapshot:
    """Return three charts by key of one table, in an interval of half a second."""
    size = by_key(
        "n.bytes", "outbound", names, ("bytes/s", Dimension("sent", "sent", ("b",), negative=True), sent),
        ("bytes/s", Dimension("recv", "recv", ("r",)), [0] * len(names)),
    )  # fmt: skip
    calls_ = by_key("n.calls", "outbound", names, ("calls/s", Dimension("sent", "sent", ("c",)), calls))
    segments = by_key("n.retransmits", "outbound", names, ("segments/s", Dimension.value("retransmits"), retransmits))
    return snapshot(charts=[size, calls_, segments])


def send(settings: LogSettings, *given: Snapshot, between: Callable[[], object] = lambda: None) -> None:
    async def run() -> None:
        async with asyncio.timeout(10), settings.open() as sink:
            for one in given:
                await sink.send(one)
                between()

    asyncio.run(run())


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ends], Ends]:
    """Replace the sink's stdout by the second of two descriptors."""

    def set_to(ends: Ends) -> Ends:
        monkeypatch.setattr(log, "_STREAMS", {"stdout": ends[1]})
        return ends

    return set_to


@pytest.fixture(params=["pipe", "socket", "terminal"])
def ends(request: pytest.FixtureRequest, stdout: Callable[[Ends], Ends]) -> Iterator[Ends]:
    """Yield two connected descriptors, to read from and to write to, of each kind that stdout may be."""
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
    """Write until the descriptor is full, and return the number of bytes."""
    os.set_blocking(fd, False)
    size = 0
    try:
        while True:
            size += os.write(fd, b"x" * 1024)
    except BlockingIOError:
        os.set_blocking(fd, True)
        return size


@pytest.mark.timeout(5)
def test_a_slow_reader_delays_only_the_sink_and_gets_everything_in_order(ends: Ends) -> None:
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


def test_stdout_stays_in_blocking_mode(ends: Ends) -> None:
    states: list[bool] = []
    send(LogSettings(), snapshot(), between=lambda: states.append(os.get_blocking(ends[1])))
    assert [*states, os.get_blocking(ends[1])] == [True, True]
    assert os.read(ends[0], 100)


@pytest.mark.parametrize("when", ["before it is opened", "between two snapshots"])
def test_a_sink_whose_reader_has_closed_stdout_raises_sink_gone_error(
    stdout: Callable[[Ends], Ends], when: str
) -> None:
    reader, writer = stdout(os.pipe())
    left = [reader]
    if when == "before it is opened":
        os.close(left.pop())
    with pytest.raises(SinkGoneError, match="the reader of stdout has gone"):
        send(LogSettings(), snapshot(), snapshot(), between=lambda: os.close(left.pop()))
    os.close(writer)


def test_json_lines_are_appended_to_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    send(LogSettings(format="json", path=str(path)), *SNAPSHOTS[:3])
    first, *lines = path.read_text().splitlines()
    assert first == "before"
    assert [json.loads(line) for line in lines] == [msgspec.to_builtins(to_json(s)) for s in SNAPSHOTS[:3]]


def test_only_the_owner_and_the_group_can_read_a_new_file(tmp_path: Path) -> None:
    send(LogSettings(path=str(tmp_path / "log")), snapshot())
    assert not stat.S_IMODE((tmp_path / "log").stat().st_mode) & 0o027


@pytest.mark.parametrize("rotate", ["rename", "delete", "replace"])
def test_after_a_rotation_the_path_is_opened_again_and_no_line_is_lost(tmp_path: Path, rotate: str) -> None:
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
    ("path", "error"),
    [
        ("/dev/full", "cannot write to '/dev/full': No space"),
        ("/no/such/x", "cannot open '/no/such/x': No such"),
        ("/", "cannot open '/': Is a"),
    ],
)
def test_a_file_that_cannot_be_written_is_an_error_that_names_it(path: str, error: str) -> None:
    with pytest.raises(SinkError, match=error):
        send(LogSettings(path=path), snapshot())


def test_a_file_that_cannot_take_a_whole_snapshot_has_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100 + b"\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    settings = LogSettings(path=str(path), format="json")
    resource.setrlimit(resource.RLIMIT_FSIZE, (120, hard))  # 19 bytes of the snapshot fit
    try:
        with pytest.raises(SinkError, match=r"cannot write to '.*/log': File too large"):
            send(settings, snapshot())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"x" * 100 + b"\n"
    send(settings, snapshot())
    assert json.loads(path.read_text().splitlines()[1])["schema"] == 2


def as_fifo(path: Path) -> None:
    os.mkfifo(path)


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def as_loop(path: Path) -> None:
    path.symlink_to(path)


REPLACEMENTS: list[tuple[Callable[[Path], object], str]] = [
    (as_fifo, "nobody reads this named pipe"),
    (as_socket, "it is a socket"),
    (Path.mkdir, "Is a directory"),
    (as_loop, "Too many levels of symbolic links"),
    (lambda path: path.symlink_to("/dev/null"), "it is no regular file any more"),
    (lambda path: path.symlink_to("no/such/folder"), "No such file or directory"),
]


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("replace_by", "reason"), REPLACEMENTS)
def test_a_file_that_was_replaced_by_something_else_is_an_error_until_it_is_a_file_again(
    tmp_path: Path, replace_by: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "log"

    async def run() -> None:
        async with LogSettings(path=str(path), format="json").open() as sink:
            await sink.send(SNAPSHOTS[0])
            path.unlink()
            replace_by(path)
            for _ in range(2):
                with pytest.raises(SinkError, match=f"cannot write to '{path}': {reason}"):
                    await sink.send(SNAPSHOTS[1])
            remove(path)
            await sink.send(SNAPSHOTS[1])

    asyncio.run(run())
    assert path.read_bytes() == line_of(SNAPSHOTS[1])


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("replace_by", "reason"), [r for r in REPLACEMENTS if "no regular file" not in r[1]])
def test_what_is_no_file_from_the_start_is_an_error_that_says_so(
    tmp_path: Path, replace_by: Callable[[Path], object], reason: str
) -> None:
    replace_by(tmp_path / "log")
    with pytest.raises(SinkError, match=f"cannot open '{tmp_path}/log': {reason}"):
        send(LogSettings(path=str(tmp_path / "log")), snapshot())


@pytest.mark.timeout(10)
def test_a_file_replaced_by_a_pipe_that_is_not_read_is_written_again_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    async def run() -> None:
        async with LogSettings(path=str(path), format="json").open() as sink:
            sending = asyncio.create_task(sink.send(replace(SNAPSHOTS[0], host="h" * 1_000_000)))
            await asyncio.sleep(0)  # it fills the pipe, and then waits
            assert not sending.done(), "the pipe does not take as much"
            assert select.select([reader], [], [], 0)[0]
            path.unlink()
            path.touch()
            with pytest.raises(SinkError, match=f"cannot write to '{path}': it has been replaced"):
                await sending

    asyncio.run(run())
    os.close(reader)
    send(LogSettings(path=str(path), format="json"), SNAPSHOTS[1])
    assert path.read_bytes() == line_of(SNAPSHOTS[1])


@pytest.mark.timeout(10)
def test_a_named_pipe_whose_reader_has_gone_may_get_another_one(tmp_path: Path) -> None:
    path, settings = tmp_path / "fifo", LogSettings(path=str(tmp_path / "fifo"), format="json")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(SinkError, match="Broken pipe") as error:
        send(settings, *SNAPSHOTS[:2], between=lambda: os.close(reader))
    assert not isinstance(error.value, SinkGoneError)
    again = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    send(settings, SNAPSHOTS[1])
    assert os.read(again, 1 << 16) == line_of(SNAPSHOTS[1])
    os.close(again)


@pytest.mark.timeout(30)
def test_a_stream_is_handed_over_and_never_shared(ends: Ends) -> None:
    async def run() -> None:
        async with LogSettings(format="json").open() as sink:
            await sink.send(SNAPSHOTS[0])
            with pytest.raises(SinkError, match="cannot write to 'stdout': another sink still writes to it"):
                await LogSettings().open().__aenter__()
            await sink.send(SNAPSHOTS[1])
        async with LogSettings(format="json").open() as sink:
            await sink.send(SNAPSHOTS[2])

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    assert len(os.listdir("/proc/self/fd")) == before
    expected, got = b"".join(map(line_of, SNAPSHOTS[:3])), b""
    while len(got) < len(expected):  # A terminal passes lines on one by one.
        got += os.read(ends[0], 1 << 16)
    assert got == expected


@pytest.mark.timeout(10)
@pytest.mark.parametrize("has_new_sink", [False, True], ids=["the same sink", "a new sink"])
@pytest.mark.parametrize("next_", [SNAPSHOTS[1], SNAPSHOTS[0]], ids=["the next snapshot", "the same snapshot"])
def test_a_line_that_was_cut_is_finished_first_and_no_snapshot_is_written_twice(
    ends: Ends, next_: Snapshot, has_new_sink: bool
) -> None:
    reader, _ = ends
    settings, large = LogSettings(format="json"), replace(SNAPSHOTS[0], host="h" * 1_000_000)
    next_ = large if next_ is SNAPSHOTS[0] else next_

    async def cut(sink: Any) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await sink.send(large)

    async def finish(sink: Any) -> bytes:
        got, expected = b"", line_of(large) + (b"" if next_ is large else line_of(next_))
        sending = asyncio.create_task(sink.send(next_))
        while len(got) < len(expected):
            got += await asyncio.to_thread(os.read, reader, 1 << 16)
        await sending
        assert got == expected
        return got

    async def run() -> None:
        async with settings.open() as sink:
            await cut(sink)
            if not has_new_sink:
                await finish(sink)
        if has_new_sink:
            async with settings.open() as sink:
                await finish(sink)

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    assert len(os.listdir("/proc/self/fd")) == before
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)


@pytest.mark.timeout(10)
def test_a_line_that_was_cut_in_a_named_pipe_is_ended_before_the_next_one(tmp_path: Path) -> None:
    path, large = tmp_path / "fifo", replace(SNAPSHOTS[0], host="h" * 1_000_000)
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR)  # so it gets no end of file
    settings = LogSettings(path=str(path), format="json")

    async def run() -> None:
        async with settings.open() as sink:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await sink.send(large)
        part = os.read(reader, 1 << 20)
        assert line_of(large).startswith(part)
        async with settings.open() as sink:
            await sink.send(SNAPSHOTS[1])
        assert os.read(reader, 1 << 20) == b"\n" + line_of(SNAPSHOTS[1])

    asyncio.run(run())
    os.close(reader)


@pytest.mark.parametrize("kind", ["terminal", "socket"])
def test_a_closed_terminal_and_a_reset_socket_are_readers_that_have_gone(
    stdout: Callable[[Ends], Ends], kind: str
) -> None:
    if kind == "terminal":
        reader, writer = stdout(pty.openpty())
    else:
        left, right = socket.socketpair()
        right.send(b"never read")
        reader, writer = stdout((left.detach(), right.detach()))
    with pytest.raises(SinkGoneError, match="the reader of stdout has gone"):
        send(LogSettings(), snapshot(), snapshot(), between=lambda: os.close(reader))
    os.close(writer)


@pytest.mark.timeout(10)
def test_a_snapshot_of_which_nothing_was_written_is_dropped_with_its_sink(stdout: Callable[[Ends], Ends]) -> None:
    reader, writer = stdout(os.pipe())

    async def run() -> None:
        before = fill(writer)
        async with LogSettings(format="json").open() as sink:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await sink.send(SNAPSHOTS[0])
        got = b""
        while len(got) < before:
            got += os.read(reader, 1 << 16)
        async with LogSettings(format="json").open() as sink:
            await sink.send(SNAPSHOTS[1])
        assert os.read(reader, 1 << 16) == line_of(SNAPSHOTS[1])

    asyncio.run(run())
    for end in (reader, writer):
        os.close(end)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("flags", [0, os.O_APPEND], ids=[">", ">>"])
def test_stdout_that_is_a_file_has_whole_snapshots_only(
    tmp_path: Path, stdout: Callable[[Ends], Ends], flags: int
) -> None:
    path = tmp_path / "out"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags)
    stdout((-1, fd))
    settings, line = LogSettings(format="json"), line_of(SNAPSHOTS[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(line) * 2 - 9, hard))
    try:
        with pytest.raises(SinkError, match="cannot write to 'stdout': File too large"):
            send(settings, SNAPSHOTS[0], SNAPSHOTS[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    send(settings, SNAPSHOTS[1])
    os.close(fd)
    assert path.read_bytes() == line + line_of(SNAPSHOTS[1])


def test_a_block_device_is_never_written_to(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    try:
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 200))  # a loop device without a file, which nobody uses
    except PermissionError:
        pytest.skip("this user may not make devices; CI runs this as root")
    with pytest.raises(SinkError, match=f"cannot open '{path}': it is a block device"):
        send(LogSettings(path=str(path)), snapshot())


@pytest.mark.parametrize("format_", ["text", "json"])
def test_descriptors_are_closed_with_the_sink(tmp_path: Path, format_: Literal["text", "json"]) -> None:
    before = os.listdir("/proc/self/fd")
    send(LogSettings(path=str(tmp_path / "log"), format=format_), snapshot())
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_text_shows_each_chart_with_its_rates_and_units_and_the_self_metrics() -> None:
    first, *lines = words(snapshot("host1", [data(IO, 41, -3), data(OWN, 40.5), data(BYTES, 750)]))
    assert "host1 (0.500 s)" in first
    assert lines == [
        "VFS Calls read 82 write -6 calls/s",
        "VFS Calls read 1.5 kB bytes/s",
        "ebpfmon rss 40.5 MB",
    ]


def test_text_marks_an_incomplete_snapshot() -> None:
    given = Snapshot(host="h", time_s=0, elapsed_s=1, complete=False, charts=())
    assert "incomplete" in words(given)[0]
    assert "incomplete" not in words(snapshot())[0]


@pytest.mark.parametrize(
    ("delta", "shown"),
    [(0, "0 B"), (499, "998 B"), (500, "1.0 kB"), (-750, "-1.5 kB"), (499_400, "998.8 kB"), (500_000, "1.0 MB"),
     (2_500_000_000, "5.0 GB"), (2_500_000_000_000, "5000.0 GB")],
)  # fmt: skip
def test_bytes_are_shown_in_units_that_fit(delta: int, shown: str) -> None:
    assert words(snapshot(charts=[data(BYTES, delta)]))[1] == f"VFS Calls read {shown} bytes/s"


def test_the_busiest_processes_are_shown_in_descending_order() -> None:
    rows = [(n, b"proc%d" % n, calls, 0) for n, calls in ((101, 5), (102, 50), (103, 0), (104, 20))]
    given = snapshot(tables=by_process(table(rows, overflow_calls=9)))
    lines = [line.split() for line in words(given, 2)]
    assert [line[:3] for line in lines if line[0] in {"101", "102", "103", "104"}] == [
        ["102", "proc102", "100"], ["104", "proc104", "40"],
    ]  # fmt: skip
    assert ["overflow", "9"] in [line[:2] for line in lines]
    assert len([line for line in words(given, 9) if "proc" in line]) == 4, "an idle process has no line"
    assert not [line for line in words(given) if "proc" in line]


@given(
    st.binary(max_size=16)
    | st.sampled_from([b"\x1b[2J\x1b[H", b"a\nb\rc", b"\xc2\x9b31m", b"\xff\xfe", b"\xe2\x80\xae"])
)
def test_control_characters_in_a_comm_never_reach_the_terminal(comm: bytes) -> None:
    lines = render(snapshot(tables=by_process(table([(7, comm, 5, 0)]))), LogSettings())
    assert all(line.isprintable() for line in lines)
    assert len([line for line in lines if line.split()[:1] == ["7"]]) == 1


@pytest.mark.parametrize(
    ("charts", "fields", "heading"),
    [
        ((), (), "PID COMMAND READ RBYTES"),
        (("x.*",), ("read_calls", "read_bytes"), "PID COMMAND READ RBYTES"),
        (("x.*",), ("read_bytes",), "PID COMMAND RBYTES"),
        (("x.*",), ("other_calls",), None),
    ],
)
def test_a_sink_with_selected_charts_shows_only_the_columns_of_those(
    charts: tuple[str, ...], fields: tuple[str, ...], heading: str | None
) -> None:
    shown = [replace(chart(*(Dimension(name, name, (name,)) for name in fields)), table="t")] if fields else []
    rows = by_process(table([(7, b"seven", 5, 9)], overflow_calls=3), ["group"])
    given = snapshot(charts=[data(of, *(1 for _ in fields)) for of in shown], tables=rows)
    lines = [" ".join(line.split()) for line in render(given, LogSettings(charts=charts))]
    assert [line for line in lines if line.startswith("PID")] == ([heading] if heading else [])
    for begins in ("7 seven", "1 group", "overflow 3 calls"):
        assert any(line.startswith(begins) for line in lines) is bool(heading), begins


def test_groups_are_those_of_the_first_grouping_and_rows_without_one_are_other() -> None:
    rows = table([(1, b"a", 5, 0), (2, b"b", 7, 0), (3, b"c", 9, 0), (4, b"d", 1, 0)])
    groups: dict[str, Sequence[str | None]] = {"user": ["root", "root", None, "www"], "container": ["x"] * 4}
    tables = {"t": view(rows, columns=(READ, replace(BYTES_READ, summary=True)), groups=groups)}
    lines = render(snapshot(tables=tables), LogSettings(applications=2, processes=0))
    assert [line.split() for line in lines[1:-1]] == [
        ["ROWS", "USER", "READ"], ["2", "root", "24"], ["1", "other", "18"],
    ]  # fmt: skip


def test_processes_are_ranked_by_calls_or_without_calls_by_the_sum_of_all_columns() -> None:
    rows = table([(1, b"calls", 5, 10), (2, b"bytes", 1, 9000)])
    for columns, first in (((READ, BYTES_READ), "calls"), ((BYTES_READ,), "bytes")):
        lines = render(snapshot(tables={"t": view(rows, columns=columns)}), LogSettings())
        assert lines[2].split()[1] == first


class Ports(LabelSource):
    fields, labels = ("port",), ("port",)

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        return [(str(port),) for port in rows["port"].tolist()]


def test_rows_with_keys_of_their_own_are_not_shown_as_processes() -> None:
    harvest = keyed_table([*IDENTITY[:3], ("port", "u4"), ("x", "u4")], ["sent_calls"], [{"tgid": 77, "sent_calls": 5}])
    sent = Column(id="sent", header="SENT", fields=("sent_calls",))
    tables = {"outbound": view(harvest, columns=(sent,), labels=Ports())}
    assert words(snapshot(tables=tables), 5, 5)[1:] == ["ebpfmon"]


def test_grouped_charts_are_shown_once_as_columns_of_the_groups() -> None:
    of = replace(chart(Dimension.value("read_calls"), id="apps.read", labels=("application",)), table="t")
    rows = by_process(table([(7, b"seven", 5, 0)]), ["group"])
    given = snapshot(charts=[data(of, series={("group",): [5]}, other=[0], overflow=[0])], tables=rows)
    lines = [line.split() for line in render(given, LogSettings(processes=0))][1:-1]
    assert lines == [["ROWS", "APPLICATION", "READ"], ["1", "group", "10"]]


def test_the_busiest_keys_are_shown_with_a_column_for_every_dimension_and_the_rest_in_other() -> None:
    names = ["https:TCP:192.0.2.1", "53:UDP:[2001:db8::1]", "idle", "ssh:TCP:h.example", "other:ALL:other"]
    given = outbound(names, [700, 90_000, 0, 50, 3], [4, 2, 0, 1, 0], [0, 0, 0, 5, 0])
    assert words(given, 0, 2)[1:-1] == [
        "OUTBOUND bytes sent calls sent retransmits",
        "53:UDP:[2001:db8::1] 180.0 kB 4 -",
        "https:TCP:192.0.2.1 1.4 kB 8 -",
        "other:ALL:other 106 B 2 10",
    ]
    assert [line.split()[0] for line in words(given, 0, 9)[2:-1]] == [names[1], names[0], names[3], names[4]]
    assert words(given, 0, 0)[1:] == ["ebpfmon"]


def test_other_is_left_out_if_it_is_0_and_an_idle_table_is_left_out_entirely() -> None:
    assert words(outbound(["a", "other"], [1, 0], [1, 0], [0, 0]), 0, 5)[1:-1] == [
        "OUTBOUND bytes sent calls sent", "a 2 B 2",
    ]  # fmt: skip
    assert words(outbound(["a", "other"], [0, 0], [0, 0], [0, 0]), 0, 5)[1:] == ["ebpfmon"]
    assert words(outbound(["other"], [5], [1], [0]), 0, 5)[2] == "other 10 B 2"


def test_each_table_by_key_has_its_own_block_with_aligned_columns() -> None:
    both_calls = Dimension.value("a_calls", "b_calls")
    charts = [
        by_key("a", "inbound", ["x" * 30, "other"], ("calls/s", both_calls, [7, 0])),
        by_key("b", "", ["y", "other"], ("calls/s", both_calls, [2_000_000, 0])),
        by_key("c", "", ["z", "other"], ("errors", Dimension("e", "errors", ("e",)), [3, 0])),
    ]
    lines = render(snapshot(charts=charts), LogSettings())[1:-1]
    assert [line.split() for line in lines] == [
        ["INBOUND", "a", "calls", "b", "calls"], ["x" * 30, "14"],
        ["NETWORK", "a", "calls", "b", "calls"], ["y", "4000000"],
        ["NETWORK", "errors", "errors"], ["z", "3"],
    ]  # fmt: skip
    assert all(len(head) == len(row) for head, row in zip(lines[::2], lines[1::2], strict=True))


@given(st.text(max_size=300) | st.sampled_from(["\x1b[2J", "a\nb", "\u202e", "e\u0301"]))
def test_control_characters_in_a_host_name_never_reach_the_terminal(name: str) -> None:
    lines = render(outbound([name, "other"], [9, 0], [1, 0], [0, 0]), LogSettings())
    assert len(lines) == 4
    assert all(line.isprintable() and len(line) < 100 for line in lines)


def test_self_metrics_are_shown_with_their_labels() -> None:
    rows = Chart(
        id="ebpfmon.rows", title="T", units="rows", family="ebpfmon", priority=1, kind=Kind.GAUGE, labels=("table",),
        dimensions=(Dimension(VALUE, VALUE, ("f",)),),
    )  # fmt: skip
    given = snapshot(charts=[data(rows, series={("network",): [13], ("process",): [0]}), data(OWN, 40.5)])
    assert words(given)[1:] == ["ebpfmon network 13, process 0 rows | rss 40.5 MB"]


def test_a_file_server_that_does_not_answer_holds_up_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether the file needs the capability, so the sink keeps it."""
    answer = threading.Event()
    monkeypatch.setattr(log, "_ANSWER_S", 0.05)
    monkeypatch.setattr(log, "standard_stream", lambda _: answer.wait(10) or None)
    try:
        assert LogSettings(path="/hung/log").capabilities == {"dac_override"}
    finally:
        answer.set()
