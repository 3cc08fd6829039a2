"""The log sink: text for people, JSON lines, files that are rotated, readers that are slow or gone."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import socket
import stat
import tty
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import (
    Chart,
    ChartValues,
    Dimension,
    Kind,
    Owners,
    Scope,
    SinkError,
    SinkGoneError,
    Snapshot,
    TableHarvest,
    Value,
    to_json,
)
from ebpfmon.pipeline.keyed import Keyed
from ebpfmon_network_viewer.charts import DESTINATION_CHARTS
from ebpfmon_sinks import log
from ebpfmon_sinks.log import LogSettings, render
from tests.unit.support import IDENTITY, chart, snapshot, table, values

IO = chart(Dimension("r", "read", ("r",)), Dimension("w", "write", ("w",)))
BYTES = chart(Dimension("r", "read", ("r",)), units="bytes/s")
OWN = chart(Dimension("rss", "rss", ("rss",)), kind=Kind.LEVEL, units="MB", family="ebpfmon")
SNAPSHOTS = [snapshot(f"{n}" * 500, [values(IO, n, 2 * n)]) for n in range(300)]
Ends = tuple[int, int]


def line_of(given: Snapshot) -> bytes:
    return msgspec.json.encode(to_json(given)) + b"\n"


def words(given: Snapshot, processes: int = 0, destinations: int = 0) -> list[str]:
    """The rendered lines, with any run of blanks as one."""
    settings = LogSettings(processes=processes, destinations=destinations)
    return [" ".join(line.split()) for line in render(given, settings)]


def by_key(of: str, table: str, names: Sequence[str], *columns: tuple[str, Dimension, Sequence[int]]) -> ChartValues:
    """A chart by key: units, then each template with what every key did."""
    made = Chart(
        id=of, title="T", units=columns[0][0], family="Network", priority=1, scope=Scope.KEYS, table=table,
        dimensions=tuple(template for _, template, _ in columns),
    )  # fmt: skip

    def value(name: str, template: Dimension, delta: int) -> Value:
        called = f"{name}_{template.name}" if template.id else name
        return Value(Dimension(called, called, template.plus), delta, delta)

    return ChartValues(made, tuple(value(k, t, ds[n]) for n, k in enumerate(names) for _, t, ds in columns))


def outbound(names: Sequence[str], sent: Sequence[int], calls: Sequence[int], again: Sequence[int]) -> Snapshot:
    """Two charts by key of one table, in an interval of half a second."""
    size = by_key(
        "n.bytes", "outbound", names, ("bytes/s", Dimension("sent", "sent", ("b",), negative=True), sent),
        ("bytes/s", Dimension("recv", "recv", ("r",)), [0] * len(names)),
    )  # fmt: skip
    calls_ = by_key("n.calls", "outbound", names, ("calls/s", Dimension("sent", "sent", ("c",)), calls))
    segments = by_key("n.again", "outbound", names, ("segments/s", Dimension("", "", ("retransmits",)), again))
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
    assert len([line for line in words(given, 9) if "proc" in line]) == 4, "who did nothing has no line"
    assert not [line for line in words(given) if "proc" in line]


@given(
    st.binary(max_size=16)
    | st.sampled_from([b"\x1b[2J\x1b[H", b"a\nb\rc", b"\xc2\x9b31m", b"\xff\xfe", b"\xe2\x80\xae"])
)
def test_no_name_that_a_process_gives_itself_reaches_the_terminal_as_a_control(comm: bytes) -> None:
    lines = list(render(snapshot(tables={"t": table([(7, comm, 5, 0)])}), LogSettings()))
    assert all(line.isprintable() for line in lines)
    assert len([line for line in lines if line.split()[:1] == ["7"]]) == 1


@pytest.mark.parametrize(
    ("charts", "fields", "heading"),
    [
        ((), (), "PID COMMAND read read bytes"),
        (("x.*",), ("read_calls", "read_bytes"), "PID COMMAND read read bytes"),
        (("x.*",), ("read_bytes",), "PID COMMAND read bytes"),
        (("x.*",), ("other_calls",), None),
    ],
)
def test_of_rows_a_sink_that_chose_charts_shows_what_is_in_those(
    charts: tuple[str, ...], fields: tuple[str, ...], heading: str | None
) -> None:
    shown = [values(chart(*(Dimension(name, name, (name,)) for name in fields)), *(1 for _ in fields))]
    rows = {"t": table([(7, b"seven", 5, 9)], overflow_calls=3)}
    owners = {"t": Owners(("other", "overflow", "group"), np.array([2]))}
    given = snapshot(charts=shown if fields else [], tables=rows, owners=owners)
    lines = [" ".join(line.split()) for line in render(given, LogSettings(charts=charts))]
    assert [line for line in lines if line.startswith("PID")] == ([heading] if heading else [])
    for begins in ("7 seven", "1 group", "overflow 3 calls"):
        assert any(line.startswith(begins) for line in lines) is bool(heading), begins


def test_rows_by_something_else_than_the_process_are_no_processes() -> None:
    keyed = np.zeros(1, [*IDENTITY[:3], ("port", "u4"), ("protocol", "u4"), ("sent_calls", "u8")])
    keyed["tgid"], keyed["sent_calls"] = 77, 5
    tables = {"outbound": TableHarvest(keyed, {"sent_calls": 14}, {"sent_calls": 9}, 9, 64)}
    assert words(snapshot(tables=tables), 5, 5)[1:] == ["ebpfmon"]


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


def test_other_is_left_out_where_it_is_nothing_and_so_is_all_where_nothing_happened() -> None:
    assert words(outbound(["a", "other"], [1, 0], [1, 0], [0, 0]), 0, 5)[1:-1] == [
        "OUTBOUND bytes sent calls sent", "a 2 B 2",
    ]  # fmt: skip
    assert words(outbound(["a", "other"], [0, 0], [0, 0], [0, 0]), 0, 5)[1:] == ["ebpfmon"]
    assert (
        words(
            outbound(
                ["other"],
                [
                    5,
                ],
                [1],
                [0],
            ),
            0,
            5,
        )[2]
        == "other 10 B 2"
    )


def test_each_table_by_key_has_a_block_of_its_own_whose_numbers_stand_under_their_headings() -> None:
    template = Dimension("", "", ("a_calls", "b_calls"))
    charts = [
        by_key("a", "inbound", ["x" * 30, "other"], ("calls/s", template, [7, 0])),
        by_key("b", "", ["y", "other"], ("calls/s", template, [2_000_000, 0])),
        by_key("c", "", ["z", "other"], ("errors", Dimension("e", "errors", ("e",)), [3, 0])),
    ]
    lines = [*render(snapshot(charts=charts), LogSettings())][1:-1]
    assert [line.split() for line in lines] == [
        ["INBOUND", "a", "b"], ["x" * 30, "14"], ["NETWORK", "a", "b"], ["y", "4000000"],
        ["NETWORK", "errors", "errors"], ["z", "3"],
    ]  # fmt: skip
    assert all(len(head) == len(row) for head, row in zip(lines[::2], lines[1::2], strict=True))


@given(st.text(max_size=300) | st.sampled_from(["\x1b[2J", "a\nb", "\u202e", "e\u0301"]))
def test_no_name_from_the_network_reaches_the_terminal_as_a_control(name: str) -> None:
    lines = list(render(outbound([name, "other"], [9, 0], [1, 0], [0, 0]), LogSettings()))
    assert len(lines) == 4
    assert all(line.isprintable() and len(line) < 100 for line in lines)


def test_keys_as_the_pipeline_makes_them_are_put_together_again() -> None:
    row = np.dtype([("port", "u4"), ("sent_bytes", "u8"), ("received_bytes", "u8"), ("retransmits", "u8")])
    rows = np.array([(443, 10, 20, 0), (22, 0, 3, 1)], row)
    amounts = {n: int(rows[n].sum()) for n in ("sent_bytes", "received_bytes", "retransmits")}

    class Ports:
        fields, maximum, other = ("port",), 5, "rest_sent"

        def wanted(self, rows: np.ndarray) -> None: ...

        def labels(self, rows: np.ndarray) -> Sequence[tuple[str, str]]:
            return [(f"{port}", f"port_sent_{port}_sent") for port in rows["port"].tolist()]

    charts = [c for c in DESTINATION_CHARTS if c.table == "outbound" and c.id != "ebpf.outbound_packets"]
    found = Keyed(charts, Ports()).account(TableHarvest(rows, amounts, dict.fromkeys(amounts, 0), 0, 64), 0.5)
    assert words(snapshot(charts=found), 0, 5)[1:-1] == [
        "OUTBOUND bytes sent bytes recv retransmits",
        "port_sent_443_sent 20 B 40 B -",
        "port_sent_22_sent - 6 B 2",
    ]
