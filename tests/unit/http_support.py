"""What the tests of the HTTP sink share: a snapshot with something of everything, the sink served, and asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import numpy as np

from ebpfmon import Chart, ChartValues, Dimension, Kind, Owners, Scope, Snapshot, TableHarvest, Value
from ebpfmon_sinks.http_json.serve import ServeSink
from ebpfmon_sinks.http_json.settings import HttpJsonSettings
from tests.unit.support import IDENTITY, ROW

SENT = np.dtype([*IDENTITY, ("send_calls", "u8"), ("send_bytes", "u8")])
OUTBOUND = np.dtype(
    [
        *IDENTITY[:3], ("address_high", "u8"), ("address_low", "u8"), ("port", "u4"), ("protocol", "u4"),
        ("sent_calls", "u8"), ("sent_bytes", "u8"), ("retransmits", "u8"),
    ]
)  # fmt: skip
INBOUND = np.dtype([*IDENTITY[:3], ("port", "u4"), ("protocol", "u4"), ("sent_calls", "u8"), ("sent_bytes", "u8")])


def harvested(rows: np.ndarray, overflow_calls: int = 0) -> TableHarvest:
    """These rows as a table of 64; the counters are the last fields, u64."""
    names = [n for n in rows.dtype.names or () if n.endswith(("_calls", "_bytes", "retransmits"))]
    return TableHarvest(rows, {n: int(rows[n].sum()) for n in names}, dict.fromkeys(names, 0), overflow_calls, 64)


def row(dtype: np.dtype, **fields: object) -> np.ndarray:
    """One row; what is not given is 0."""
    made = np.zeros(1, dtype)
    for name, value in fields.items():
        made[name] = value
    return made


def halves(packed: bytes) -> dict[str, int]:
    """An address as the kernel has it."""
    high, low = (int.from_bytes(packed[n : n + 8], "little") for n in (0, 8))
    return {"address_high": high, "address_low": low}


def tables() -> dict[str, TableHarvest]:
    """Two tables by process, two by destination."""
    nginx = {"start_ns": 10, "tgid": 100, "cgroup_id": 7, "parent_tgid": 1, "uid": 33}
    process = [
        row(ROW, **nginx, exec_id=1, comm=b"sh", read_calls=3, read_bytes=30),
        row(ROW, **nginx, exec_id=2, comm=b"nginx", read_calls=4, read_bytes=70),
        row(ROW, start_ns=20, tgid=200, comm=b"\xffcat", read_calls=50),
        row(ROW, start_ns=30, tgid=200, comm=b"other", read_calls=1),
    ]
    network = [row(SENT, **nginx, exec_id=2, comm=b"nginx", send_calls=9, send_bytes=900)]
    outbound = [
        row(
            OUTBOUND, start_ns=10, tgid=100, exec_id=2, port=443, protocol=6, sent_calls=9, sent_bytes=900,
            **halves(bytes(10) + b"\xff\xff\xc0\x00\x02\x01"),
        ),
        row(
            OUTBOUND, start_ns=99, tgid=999, port=53, protocol=17, sent_calls=1, sent_bytes=5000, retransmits=2,
            **halves(b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
        ),
    ]  # fmt: skip
    return {
        "process": harvested(np.concatenate(process), overflow_calls=6),
        "network": harvested(np.concatenate(network)),
        "outbound": harvested(np.concatenate(outbound), overflow_calls=3),
        "inbound": harvested(row(INBOUND, start_ns=20, tgid=200, port=80, protocol=132, sent_calls=2)),
        "strange": harvested(row(np.dtype([("disk", "u4"), ("io_calls", "u8")]), disk=1, io_calls=7)),
    }


OWNERS = {
    "process": Owners(("other", "overflow", "web", "tools"), np.array([3, 2, 3, 0])),
    "network": Owners(("other", "overflow", "web", "tools"), np.array([2])),
}


def chart(id_: str, units: str, scope: Scope, *dimensions: Dimension, kind: Kind = Kind.COUNTER) -> Chart:
    """A chart, called as its id is."""
    return Chart(
        id=id_, title=f"T {id_}", units=units, family="F", priority=7, dimensions=dimensions, kind=kind, scope=scope
    )


def valued(of: Chart, *values: tuple[str, float, int]) -> ChartValues:
    """Dimensions of these names with a delta and a total each."""
    return ChartValues(of, tuple(Value(Dimension(f"id_{n}", n, ("x",)), delta, total) for n, delta, total in values))


APP, KEY = Dimension("application", "application", ("x",)), Dimension("sent", "sent", ("x",), negative=True)
CHARTS = (
    valued(
        chart("ebpf.io", "calls/s", Scope.SYSTEM, Dimension("id_read", "read", ("read_calls",))),
        ("read", 58, 1058), ("write", 0, 7),
    ),
    valued(
        chart("ebpf.difference", "difference", Scope.SYSTEM, Dimension("d", "d", ("a",), ("b",))), ("d", -5, -17)
    ),
    valued(chart("apps.vfs_write_call", "calls/s", Scope.APPS, APP), ("web", 7, 70), ("other", 51, 510)),
    valued(chart("ebpf.outbound_bytes", "bytes/s", Scope.KEYS, KEY), ("443:TCP:192.0.2.1_sent", 9, 9)),
    valued(
        chart("ebpfmon.harvest_time", "milliseconds", Scope.SYSTEM, Dimension("s", "s", ("s",)), kind=Kind.LEVEL),
        ("swap", 12.345, 0),
    ),
    valued(chart("ebpfmon.cpu", "milliseconds/s", Scope.SYSTEM, Dimension("s", "s", ("s",))), ("user", 3, 1234)),
)  # fmt: skip
SNAPSHOT = Snapshot(host="h", time_s=1.7e9, elapsed_s=0.5, complete=True, charts=CHARTS, tables=tables(), owners=OWNERS)


def later(seconds: float, elapsed_s: float = 1.0) -> Snapshot:
    """The snapshot of another time."""
    return replace(SNAPSHOT, time_s=SNAPSHOT.time_s + seconds, elapsed_s=elapsed_s)


def local(**settings: Any) -> HttpJsonSettings:
    """The settings of a sink at a port that is free."""
    return HttpJsonSettings(port=0, **settings)


@dataclass
class Answer:
    """What came back, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        assert self.headers["Content-Type"].startswith("application/json"), self.headers
        return json.loads(self.body)


@dataclass
class Served:
    """A sink that serves, and a client of it."""

    sink: ServeSink
    session: aiohttp.ClientSession
    url: str

    async def get(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
        """Ask for a path. What is gzipped stays so."""
        async with self.session.request(method, self.url + path, headers=headers, allow_redirects=False) as response:
            return Answer(response.status, response.headers, await response.read())


@asynccontextmanager
async def serving(settings: HttpJsonSettings | None = None, *given: Snapshot) -> AsyncIterator[Served]:
    """A sink that has had these snapshots."""
    async with ServeSink(settings or local()) as sink:
        for one in given:
            await sink.send(one)
        async with aiohttp.ClientSession(
            auto_decompress=False, skip_auto_headers=["Accept-Encoding"], timeout=aiohttp.ClientTimeout(20)
        ) as session:
            yield Served(sink, session, f"http://127.0.0.1:{sink.port}")


def run(of: Callable[[], Awaitable[None]], seconds: float = 60) -> None:
    """A test that is asynchronous."""

    async def limited() -> None:
        async with asyncio.timeout(seconds):
            await of()

    asyncio.run(limited())


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (of whatever holds, nobody tells)
            await asyncio.sleep(0.01)
