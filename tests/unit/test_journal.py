"""The log sink with the journal: valid entries for any content, correct sums, and failures of the socket."""

from __future__ import annotations

import array
import asyncio
import json
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfmon import ChartData, Dimension, Kind, SinkError, Snapshot
from ebpfmon.testing import view
from ebpfmon_sinks.log import journal
from ebpfmon_sinks.log import settings as log
from ebpfmon_sinks.log.journal import MAX_FIELDS, SNAPSHOT_ID, JournalSink, Names, encode, fields_of, open_journal
from ebpfmon_sinks.log.settings import LogSettings
from tests.unit.support import chart, data, snapshot, table

IO = chart(Dimension("vfs_read", "read", ("r",)), Dimension("vfs_write", "write", ("w",)))
NAME = r"[A-Z][A-Z0-9_]{0,63}"
"""Field names that journald accepts (see journald.conf(5), and journal_field_valid in its source)."""


def decode(entry: bytes) -> list[tuple[str, str]]:
    """Parse an entry: `NAME=value`, or the name, the length in 64 bits and the bytes of the value."""
    fields = []
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, mark, value = line.partition(b"=")
        if not mark:
            (size,) = struct.unpack("<Q", rest[:8])
            value, end, rest = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert (len(value), end) == (size, b"\n")
        fields.append((name.decode(), value.decode()))
        entry = rest
    return fields


@given(st.dictionaries(st.from_regex(NAME, fullmatch=True), st.text() | st.sampled_from(["\n", "a\n", "=\nX=1", ""])))
def test_any_field_is_decoded_unchanged(fields: dict[str, str]) -> None:
    safe = {name: text.encode(errors="replace").decode() for name, text in fields.items()}
    assert decode(encode(fields)) == [*safe.items()]


WORDS = st.text(max_size=90) | st.sampled_from(
    ["time", "complete", "_x", "ß", "ebpf.", "x" * 64, "x" * 65, "a.b", "a_b"]
)


@given(st.lists(st.tuples(WORDS, WORDS), unique=True))
def test_field_names_are_valid_stable_and_unique(
    words: list[tuple[str, str]],
) -> None:
    names = Names()
    found = [names.of(*each) for each in words]
    assert all(re.fullmatch(NAME, name) for name in found)
    assert len({*found, "EBPFMON_TIME", "EBPFMON_ELAPSED_S", "EBPFMON_COMPLETE", "EBPFMON_LEFT_OUT"}) == len(found) + 4
    assert [names.of(*each) for each in words] == found


def test_a_snapshot_has_its_time_and_a_field_for_each_dimension() -> None:
    gauge = chart(Dimension("rss", "rss", ("rss",)), kind=Kind.GAUGE)
    found = fields_of(snapshot(charts=[data(IO, 41, -3), data(gauge, 40.5)]), Names(), 5, 5)
    assert found == {
        "PRIORITY": "6", "SYSLOG_IDENTIFIER": "ebpfmon", "MESSAGE_ID": SNAPSHOT_ID, "EBPFMON_COMPLETE": "true",
        "EBPFMON_TIME": "1700000000.000", "EBPFMON_ELAPSED_S": "0.5000",
        "EBPFMON_X_IO_READ": "41", "EBPFMON_X_IO_WRITE": "-3", "EBPFMON_X_IO_RSS": "40.5",
    }  # fmt: skip


def test_an_incomplete_snapshot_is_a_warning() -> None:
    found = fields_of(Snapshot(host="h", time_s=0, elapsed_s=1, complete=False, charts=()), Names(), 5, 5)
    assert (found["PRIORITY"], found["EBPFMON_COMPLETE"]) == ("4", "false")


def test_field_names_of_built_in_charts_have_no_checksum() -> None:
    names = Names()
    assert names.of("ebpf.io", "read") == "EBPFMON_IO_READ"
    assert names.of("ebpfmon.harvest_time", "swap") == "EBPFMON_HARVEST_TIME_SWAP"
    assert names.of("apps.file_open") == "EBPFMON_APPS_FILE_OPEN"


def labelled(dimensions: Sequence[str], items: Sequence[tuple[str, Sequence[int]]], **rest: Sequence[int]) -> ChartData:
    """Return a chart by key, with the numbers of each item and of `other` by dimension."""
    of = chart(
        *(Dimension(d, d, ("f",)) if d else Dimension.value("f") for d in dimensions), id="k.x", labels=("key",)
    )  # fmt: skip
    names: dict[tuple[str, ...], tuple[str, ...]] = {(f"{n}",): (name,) for n, (name, _) in enumerate(items)}
    return data(of, series={(f"{n}",): of_item for n, (_, of_item) in enumerate(items)}, names=names, **rest)


def shown(of: ChartData, most: int) -> object:
    field = fields_of(snapshot(charts=[of]), Names(), 99, most).get("EBPFMON_K_X")
    return json.loads(field) if field else None


def test_the_busiest_series_are_shown_and_the_rest_is_in_other() -> None:
    of = labelled([""], [("a", [5]), ("b", [50]), ("c", [0]), ("d", [7])], other=[2], overflow=[11])
    assert shown(of, 2) == {"b": 50, "d": 7, "other": 7, "overflow": 11}
    assert shown(of, 9) == {"a": 5, "b": 50, "d": 7, "other": 2, "overflow": 11}
    assert shown(of, 0) is None


def test_the_busiest_series_have_an_entry_for_each_dimension() -> None:
    of = labelled(["sent", "recv"], [("a", [1, 2]), ("b", [30, 40]), ("c", [5, 0])], other=[0, 9])
    assert shown(of, 1) == {"b_sent": 30, "b_recv": 40, "other_sent": 6, "other_recv": 11}


def test_the_setting_applications_limits_the_series_of_grouped_charts() -> None:
    of = labelled([""], [("a", [5]), ("b", [50])], other=[0])
    of = replace(of, chart=replace(of.chart, table="t"))
    given = snapshot(charts=[of], tables={"t": view(table([(1, b"x", 1, 1)]))})
    assert json.loads(fields_of(given, Names(), 1, 99)["EBPFMON_K_X"]) == {"b": 50, "other": 5}


def test_series_that_do_not_add_up_to_a_total_are_all_shown() -> None:
    assert shown(labelled([""], [("a", [5]), ("b", [0]), ("c", [7])]), 0) == {"a": 5, "c": 7}


@given(st.data())
def test_the_shown_series_add_up_to_the_total_of_the_chart(drawn: st.DataObject) -> None:
    dimensions = drawn.draw(st.sampled_from([[""], ["sent", "recv"]]))
    numbers = st.lists(st.integers(0, 1 << 50), min_size=len(dimensions), max_size=len(dimensions))
    names = st.text(max_size=3) | st.just("other")  # Names need not be unique.
    items = drawn.draw(st.lists(st.tuples(names, numbers), max_size=8))
    rest = {role: drawn.draw(numbers) for role in drawn.draw(st.sampled_from([["other"], ["other", "overflow"]]))}
    found = shown(labelled(dimensions, items, **rest), drawn.draw(st.integers(1, 9)))
    assert isinstance(found, dict)
    assert sum(found.values()) == sum(sum(of) for of in (*(of for _, of in items), *rest.values()))


def test_an_entry_is_limited_to_the_fields_that_journald_accepts_and_counts_the_others() -> None:
    many = chart(*(Dimension(f"d{n}", f"d{n}", ("f",)) for n in range(1500)))
    found = fields_of(snapshot(charts=[data(many, *range(1500))]), Names(), 5, 5)
    assert len(found) == MAX_FIELDS + 1
    assert int(found["EBPFMON_LEFT_OUT"]) == 1500 - (MAX_FIELDS - 6)


def test_unused_field_names_are_forgotten() -> None:
    names = Names()
    for n in range(9 * MAX_FIELDS):
        names.trim()
        names.of("x", str(n))
    assert len(names._known) <= 4 * MAX_FIELDS + 1


MakeSocket = Callable[[], socket.socket]


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeSocket]:
    """Yield a function that makes a socket at journald's path, and replaces an earlier one."""
    path, made = tmp_path / "socket", list[socket.socket]()
    monkeypatch.setattr(journal, "SOCKET", str(path))

    def make() -> socket.socket:
        path.unlink(missing_ok=True)
        end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.append(end)
        end.bind(str(path))
        end.settimeout(10)
        return end

    yield make
    for end in made:
        end.close()


def sink(text: str = "hello") -> AbstractAsyncContextManager[JournalSink]:
    return open_journal(lambda snapshot: text, 5, 5)


def received(end: socket.socket) -> dict[str, str]:
    """Receive an entry, sent as a datagram or as a memory file."""
    data, control, _, _ = end.recvmsg(1 << 20, socket.CMSG_LEN(4))
    for _, kind, fds in control:
        assert kind == socket.SCM_RIGHTS
        (fd,) = array.array("i", fds)
        with open(fd, "rb") as file:
            assert data == b""
            data = os.pread(file.fileno(), 1 << 26, 0)
    return dict(decode(data))


def test_an_entry_has_the_text_and_a_field_for_each_number(journald: MakeSocket) -> None:
    end = journald()

    async def run() -> None:
        async with LogSettings(path="journal").open() as sink:
            await sink.send(snapshot("host1", [data(IO, 41, -3)]))

    asyncio.run(run())
    entry = received(end)
    first, second, _ = entry["MESSAGE"].splitlines()
    assert "host1" in first
    assert second.split() == ["VFS", "Calls", "read", "82", "write", "-6", "calls/s"]
    assert entry["EBPFMON_X_IO_READ"] == "41"


def test_with_format_json_the_message_is_the_snapshot(journald: MakeSocket) -> None:
    end, given = journald(), snapshot("host1", [data(IO, 41, -3)])

    async def run() -> None:
        async with LogSettings(path="journal", format="json").open() as sink:
            await sink.send(given)

    asyncio.run(run())
    assert json.loads(received(end)["MESSAGE"])["charts"][0]["series"][0]["dimensions"][0]["delta"] == 41


def test_an_entry_too_large_for_a_datagram_is_sent_as_a_sealed_file(journald: MakeSocket) -> None:
    end, text = journald(), "x" * (1 << 20)

    async def run() -> None:
        async with sink(text) as opened:
            await opened.send(snapshot())

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    assert received(end)["MESSAGE"] == text
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_the_sink_waits_for_a_busy_journald_without_blocking_the_event_loop(journald: MakeSocket, size: int) -> None:
    end = journald()

    async def send_all(opened: JournalSink) -> None:
        for _ in range(100):
            await opened.send(snapshot())

    async def run() -> list[str]:
        async with asyncio.timeout(30), sink("x" * size) as opened:
            sending = asyncio.create_task(send_all(opened))
            for _ in range(1000):
                await asyncio.sleep(0)
            assert not sending.done()
            found = [(await asyncio.to_thread(received, end))["MESSAGE"] for _ in range(100)]
            await sending
            return found

    assert asyncio.run(run()) == ["x" * size] * 100


def test_a_missing_journald_is_an_error_and_a_restarted_one_is_found(journald: MakeSocket) -> None:
    async def run() -> dict[str, str]:
        with pytest.raises(
            SinkError, match=r"journal's socket '.*': No such file or directory; is systemd-journald running\?"
        ):
            await sink().__aenter__()
        first = journald()
        async with sink() as opened:
            await opened.send(snapshot())
            first.close()
            journald()
            with pytest.raises(SinkError, match="cannot write to the journal: Connection refused"):
                await opened.send(snapshot())
        second = journald()
        async with sink("again") as opened:
            await opened.send(snapshot())
        return received(second)

    assert asyncio.run(run())["MESSAGE"] == "again"


@pytest.mark.parametrize("name", ["journal", "journal.ebpfmon"])
def test_a_stdout_that_is_connected_to_journald_is_the_journal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(journal, "_STREAM", re.compile(re.escape(str(tmp_path)) + r"/journal[^/]*/stdout"))
    (tmp_path / name).mkdir()
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as stdout:
        listening.bind(str(tmp_path / name / "stdout"))
        listening.listen()
        stdout.connect(str(tmp_path / name / "stdout"))
        monkeypatch.setattr(log, "_STREAMS", {"stdout": stdout.fileno()})
        monkeypatch.setattr(journal, "open_journal", lambda *_: "the journal")
        assert LogSettings().open() == "the journal"  # type: ignore[comparison-overlap]
        assert LogSettings(path="stdou").open() != "the journal"  # type: ignore[comparison-overlap]
        assert os.fstat(stdout.fileno())  # It must stay open.


def test_any_other_stdout_is_not_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = socket.socketpair()
    pipe = os.pipe()
    with ends[0], ends[1], socket.create_server(("127.0.0.1", 0)) as tcp:
        before = os.listdir("/proc/self/fd")
        for fd in (ends[0].fileno(), tcp.fileno(), pipe[1], 1 << 20):
            assert not journal.is_journal(fd)
        assert len(os.listdir("/proc/self/fd")) == len(before)
    for fd in pipe:
        os.close(fd)


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ebpfmon_sinks" / "log" / "README.md").read_text()
HOWTO = (ROOT / "docs" / "howto" / "systemd.md").read_text()


def test_the_pages_match_the_code() -> None:
    assert f"`{SNAPSHOT_ID}`" in PAGE
    assert f"MESSAGE_ID={SNAPSHOT_ID}" in HOWTO
    assert f"{MAX_FIELDS:,} at most" in PAGE
    assert Names().of("ebpf.io", "read") in PAGE
    own = fields_of(snapshot(charts=[data(IO, 1, 1)]), Names(), 5, 5)
    assert all(
        f"`{name}`" in PAGE
        for name in (*own, "EBPFMON_LEFT_OUT")
        if name not in ("SYSLOG_IDENTIFIER",) and "X_IO" not in name
    )
