"""Helpers for the tests of the HTTP sink: a snapshot with data of all kinds, a running sink, and requests."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

from ebpfmon import (
    Buckets,
    Chart,
    ChartData,
    Column,
    Dimension,
    Kind,
    LabelSource,
    Role,
    RowGroups,
    Rows,
    SeriesIndex,
    Snapshot,
    TableHarvest,
    TableView,
)
from ebpfmon_sinks.http_json.serve import HttpJsonSink
from ebpfmon_sinks.http_json.settings import HttpJsonSettings

IDENTITY = [
    ("start_ns", "u8"), ("tgid", "u4"), ("exec_id", "u4"), ("cgroup_id", "u8"), ("parent_tgid", "u4"), ("uid", "u4"),
    ("comm", "S16"),
]  # fmt: skip
ROW = np.dtype([*IDENTITY, ("read_calls", "u8"), ("read_bytes", "u8")])
SENT = np.dtype([*IDENTITY, ("send_calls", "u8"), ("send_bytes", "u8")])
OUTBOUND = np.dtype(
    [
        *IDENTITY[:3], ("address", "u4"), ("port", "u4"), ("sent_calls", "u8"), ("sent_bytes", "u8"),
        ("retransmits", "u8"),
    ]
)  # fmt: skip
INBOUND = np.dtype([*IDENTITY[:3], ("port", "u4"), ("sent_calls", "u8"), ("sent_bytes", "u8"), ("retransmits", "u8")])
DISK = np.dtype([("disk", "u4"), ("io_calls", "u8"), ("reserved", "u4")])
READ = (
    Column(id="read", header="READ", fields=("read_calls",)),
    Column(id="rbytes", header="RBYTES", fields=("read_bytes",), units="bytes/s", name="read"),
    Column(id="all", header="ALL", fields=("read_calls",), units="things/s", summary=True),
    Column(id="moved", header="MOVED", fields=("read_bytes",), units="bytes/s"),
)
SEND = (
    Column(id="send", header="SEND", fields=("send_calls",)),
    Column(id="moved", header="MOVED", fields=("send_bytes",), units="bytes/s"),
)
CONNECTION = (
    Column(id="sends", header="SENDS", fields=("sent_calls",)),
    Column(id="sent", header="SENT", fields=("sent_bytes",), units="bytes/s"),
    Column(id="retransmits", header="RETRANS", fields=("retransmits", "missing"), units="segments/s"),
)


class Fields(LabelSource):
    """Labels rows with the values of their fields."""

    def __init__(self, *labels: str) -> None:
        self.fields = self.labels = labels

    def values(self, rows: Rows) -> list[tuple[str, ...]]:
        return [tuple(str(row[name]) for name in self.labels) for row in rows]


def harvested(rows: Rows, overflow_calls: int = 0) -> TableHarvest:
    """Return a table of size 64 with these rows. The last fields are the counters, u64."""
    names = [n for n in rows.dtype.names or () if n.endswith(("_calls", "_bytes", "retransmits"))]
    return TableHarvest(rows, {n: int(rows[n].sum()) for n in names}, dict.fromkeys(names, 0), overflow_calls, 64)


def row(dtype: np.dtype[np.void], **fields: object) -> Rows:
    """Return a row. Fields that are not given are 0."""
    made = np.zeros(1, dtype)
    for name, value in fields.items():
        made[name] = value
    return made


def groups(*ids: int) -> RowGroups:
    """Return the groups of rows: 1 is `web`, 2 is `tools`, 0 is none."""
    return RowGroups(np.array(ids, np.uint64), {1: "web", 2: "tools"})


def users(*ids: int) -> RowGroups:
    """Return the users of rows: 7 is `root`, 8 is `web`."""
    return RowGroups(np.array(ids, np.uint64), {7: "root", 8: "web"})


def tables() -> dict[str, TableView]:
    """Return two tables by process, two by process and further keys, and one by disk."""
    nginx = {"start_ns": 10, "tgid": 100, "cgroup_id": 7, "parent_tgid": 1, "uid": 33}
    process = [
        row(ROW, **nginx, exec_id=2, comm=b"nginx", read_calls=4, read_bytes=70),
        row(ROW, **nginx, exec_id=1, comm=b"sh", read_calls=3, read_bytes=30),
        row(ROW, start_ns=20, tgid=200, comm=b"\xffcat", read_calls=50),
        row(ROW, start_ns=30, tgid=200, comm=b"other", read_calls=1),
    ]
    network = [row(SENT, **nginx, exec_id=2, comm=b"nginx", send_calls=9, send_bytes=900)]
    outbound = [
        row(OUTBOUND, start_ns=10, tgid=100, exec_id=2, port=443, address=1, sent_calls=9, sent_bytes=900),
        row(OUTBOUND, start_ns=99, tgid=999, port=53, address=2, sent_calls=1, sent_bytes=5000, retransmits=2),
    ]
    return {
        "process": TableView(
            harvest=harvested(np.concatenate(process), overflow_calls=6), columns=READ,
            groups={"application": groups(1, 2, 2, 0), "user": users(8, 7, 7, 7)},
        ),
        "network": TableView(
            harvest=harvested(np.concatenate(network)), columns=SEND,
            groups={"application": groups(1), "user": users(8)},
        ),
        "outbound": TableView(
            harvest=harvested(np.concatenate(outbound), overflow_calls=3), columns=CONNECTION,
            labels=Fields("port", "address"),
        ),
        "inbound": TableView(
            harvest=harvested(row(INBOUND, start_ns=20, tgid=200, port=80, sent_calls=2)), columns=CONNECTION,
            labels=Fields("port"),
        ),
        "strange": TableView(
            harvest=harvested(row(DISK, disk=1, io_calls=7)), labels=Fields("disk"),
            columns=(Column(id="io", header="IO", fields=("io_calls",)),),
        ),
    }  # fmt: skip


def chart(id_: str, units: str, *dimensions: Dimension, **more: Any) -> Chart:
    """Return a chart whose title is its id. It has one number unless dimensions or buckets are given."""
    if not dimensions and "buckets" not in more:
        dimensions = (Dimension.value("x"),)
    return Chart(id=id_, title=f"T {id_}", units=units, family="F", priority=7, dimensions=dimensions, **more)


def data(of: Chart, *series: tuple[Any, ...]) -> ChartData:
    """Return a chart with series, each with label values, deltas and totals. A series `other` has that role."""
    labels = tuple(tuple(each[0]) for each in series)
    roles = tuple(Role.OTHER if "other" in values else Role.ITEM for values in labels)
    index = SeriesIndex(labels=labels, names=labels, roles=roles, starts_s=(1.6e9,) * len(series))
    size = (len(series), len(of.columns))
    deltas: NDArray[Any] = np.array([each[1] for each in series]).reshape(size)
    return ChartData(
        chart=of, index=index, deltas=deltas, totals=np.array([each[2] for each in series], np.int64).reshape(size)
    )


READS = (Dimension("id_read", "read", ("read_calls",)), Dimension("id_write", "write", ("write_calls",)))
SENDS = (Dimension("sent", "sent", ("x",), negative=True), Dimension("recv", "recv", ("y",)))
LATENCY = Buckets(field="l", bounds=(128, 256), units="microseconds", sum="s", sum_units="nanoseconds")
DISKS = chart("disk.latency", "operations/s", labels=("disk",), buckets=LATENCY)
CHARTS = (
    data(chart("ebpf.io", "calls/s", *READS), ((), (58, 0), (1058, 7))),
    data(chart("ebpf.difference", "difference", Dimension("d", "d", ("a",), ("b",))), ((), (-5,), (-17,))),
    data(
        chart("apps.vfs_write_call", "calls/s", labels=("application",)),
        (("web",), (7,), (70,)), (("other",), (51,), (510,)),
    ),
    data(
        chart("ebpf.outbound_bytes", "bytes/s", *SENDS, labels=("port", "protocol", "address"), unbounded=True),
        (("443", "TCP", "192.0.2.1"), (9, 0), (9, 0)), (("other", "ALL", "other"), (0, 0), (0, 0)),
    ),
    data(
        chart("ebpfmon.harvest_time", "milliseconds", Dimension("s", "swap", ("s",)), kind=Kind.GAUGE),
        ((), (12.345,), (0,)),
    ),
    data(chart("ebpfmon.cpu", "milliseconds/s", Dimension("u", "user", ("s",))), ((), (3,), (1234,))),
    data(DISKS, (("sda",), (1, 0, 2, 5000), (10, 5, 2, 7_000_000)), (("other",), (0, 0, 0, 0), (0, 0, 0, 0))),
)  # fmt: skip
SNAPSHOT = Snapshot(host="h", time_s=1.7e9, elapsed_s=0.5, complete=True, charts=CHARTS, tables=tables())


def snapshot_after(seconds: float, elapsed_s: float = 1.0) -> Snapshot:
    """Return SNAPSHOT as if it were taken this many seconds later."""
    return replace(SNAPSHOT, time_s=SNAPSHOT.time_s + seconds, elapsed_s=elapsed_s)


def make_certificate(where: Path) -> tuple[str, str]:
    """Make a certificate for 127.0.0.1 that nobody has signed. Return the paths of it and of its key."""
    cert, key = str(where / "cert.pem"), str(where / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", key, "-out", cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def settings_on_free_port(**settings: Any) -> HttpJsonSettings:
    """Return settings of a sink that listens on a free port."""
    return HttpJsonSettings(port=0, **settings)


@dataclass
class Answer:
    """The status, headers and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed as JSON."""
        assert self.headers["Content-Type"].startswith("application/json"), self.headers
        return json.loads(self.body)


@dataclass
class Served:
    """A running sink and a client of it."""

    sink: HttpJsonSink
    session: aiohttp.ClientSession
    url: str

    async def get(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
        """Send a request and return the answer. A gzipped body stays compressed."""
        async with self.session.request(method, self.url + path, headers=headers, allow_redirects=False) as response:
            return Answer(response.status, response.headers, await response.read())


@asynccontextmanager
async def serving(settings: HttpJsonSettings | None = None, *given: Snapshot) -> AsyncIterator[Served]:
    """Run a sink that has received these snapshots."""
    async with HttpJsonSink(settings or settings_on_free_port()) as sink:
        for one in given:
            await sink.send(one)
        async with aiohttp.ClientSession(
            auto_decompress=False, skip_auto_headers=["Accept-Encoding"], timeout=aiohttp.ClientTimeout(20)
        ) as session:
            yield Served(sink, session, f"http://127.0.0.1:{sink.port}")


def run(test: Callable[[], Awaitable[None]], seconds: float = 60) -> None:
    """Run an asynchronous test with a time limit."""

    async def limited() -> None:
        async with asyncio.timeout(seconds):
            await test()

    asyncio.run(limited())


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (nothing announces that the condition is true)
            await asyncio.sleep(0.01)
