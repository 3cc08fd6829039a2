"""Under load, in each second, the series of every chart of every probe and grouping add up to the system's total."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ebpfmon import Chart, ChartData, Role, Snapshot
from ebpfmon.grouping.registry import groupings
from ebpfmon.plugins import registry
from ebpfmon.testing import RunningDaemon
from tests.kernel.support import counts_io_uring
from tests.kernel.test_block_io import loop_device, read_and_write

PROBES = ("process", "network_viewer", "block_io", "syscalls", "oom_and_signals")
SECONDS = 12
# Short-lived processes; files that are written, synced, read and removed; deaths by signals.
PROCESSES = """
ulimit -c 0
while true; do
    for n in 1 2 3 4 5 6 7; do /bin/true; cat /etc/passwd > /dev/null; done
    dd if=/dev/zero of="$1/file" bs=4096 count=97 conv=fsync status=none
    cat "$1/file" "$1/none" > /dev/null
    cp "$1/file" "$1/copy"
    rm "$1/file" "$1/copy"
    "$2" "$1" read=29 write=31 splice=37
    for signal in USR1 KILL SEGV ABRT TERM; do sh -c "kill -$signal \\$\\$"; done
done 2> /dev/null
"""


@contextmanager
def load(directory: Path, uring: Path) -> Iterator[None]:
    """Run short processes, work with files, requests to a disk, and TCP and UDP traffic over loopback."""
    ended = threading.Event()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        subprocess.Popen(["sh", "-c", PROCESSES, "load", str(directory), str(uring)]) as processes,
        ExitStack() as stack,
    ):
        stack.callback(processes.kill)
        datagrams.bind(("127.0.0.1", 0))
        server.settimeout(5)
        disk = None
        # Guests of the matrix have no other disk. A machine without loop devices has its files on a disk.
        with suppress(pytest.skip.Exception):
            disk = stack.enter_context(loop_device(directory / "disk"))

        def connect() -> None:
            while not ended.wait(0.003):
                with socket.create_connection(server.getsockname()) as client, server.accept()[0] as accepted:
                    client.sendall(b"x" * 1009)
                    accepted.recv(2048)
                datagrams.sendto(b"y" * 31, datagrams.getsockname())
                datagrams.recv(64)

        def ask_disk() -> None:
            while disk and not ended.wait(0.01):
                read_and_write(disk.node, reads=3, writes=2)

        threads = [threading.Thread(target=work, name=work.__name__) for work in (connect, ask_disk)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory, uring: Path) -> list[Snapshot]:
    """The snapshots of some seconds of load, with all probes and all groupings."""
    plugins: dict[str, dict[str, Any]] = {name: {"enabled": True, "table_size": 13} for name in PROBES}
    plugins["network_viewer"] |= {"ips": "127.0.0.0/8", "maximum_dimensions": 7}
    settings = {
        "ebpfmon": {"load_mode": "return"},
        # Few series, so that they are replaced by others, and few rows, so that tables overflow.
        "groups": {"by": list(groupings()), "maximum": 7},
        "plugins": plugins,
    }
    with RunningDaemon(settings) as watching, load(tmp_path_factory.mktemp("load"), uring):
        watching.until(lambda: len(watching.snapshots) > SECONDS, 60 + SECONDS)
    return watching.snapshots


def charts_of(snapshot: Snapshot) -> dict[str, ChartData]:
    return {data.chart.id: data for data in snapshot.charts if data.chart.family != "ebpfmon"}


def declared() -> dict[str, tuple[Chart, str]]:
    """Return all charts with labels that must exist, by id, with their grouping if they have one."""
    probes = registry.discover().probes
    charts = [chart for name in PROBES for chart in probes[name].charts]
    by_id = {chart.id: (chart, "") for chart in charts if chart.labels}
    for grouping in groupings().values():
        for chart in charts:
            if chart.grouped:
                published = chart.for_grouping(grouping.prefix, grouping.name)
                by_id[published.id] = published, grouping.name
    return by_id


def test_every_declared_chart_is_in_every_snapshot(snapshots: list[Snapshot]) -> None:
    expected = declared()
    assert {chart.labels[0] for chart, grouping in expected.values() if grouping} == set(groupings())
    assert len(snapshots) > SECONDS
    for snapshot in snapshots:
        charts = {id_ for id_, data in charts_of(snapshot).items() if data.chart.labels}
        assert charts == expected.keys()


def test_series_add_up_to_the_totals_of_their_table(snapshots: list[Snapshot]) -> None:
    happened: dict[str, int] = {}
    began: dict[str, int] = {}
    for snapshot in snapshots:
        for data in charts_of(snapshot).values():
            chart, totals = data.chart, snapshot.tables[data.chart.table].harvest.totals
            for n, column in enumerate(chart.columns):
                what = f"{chart.id} {column.id}"
                delta = sum(totals[name] for name in column.plus) - sum(totals[name] for name in column.minus)
                if chart.kind.cumulative:
                    happened[chart.id] = happened.get(chart.id, 0) + abs(delta)
                    assert data.deltas[:, n].sum() == delta, (what, snapshot.time_s)
                else:
                    began[what] = began.get(what, 0) + delta
                    assert data.deltas[:, n].sum() == began[what], (what, snapshot.time_s)
    quiet = {id_ for id_, count in happened.items() if not count}
    may_be_quiet = "error|oom|retransmit|discard|flush|unfollowed" + ("" if counts_io_uring() else "|io_uring")
    assert not {id_ for id_ in quiet if not re.search(may_be_quiet, id_)}


def test_series_add_up_to_the_chart_of_the_system_with_the_same_fields(snapshots: list[Snapshot]) -> None:
    compared = set()
    for snapshot in snapshots:
        charts = charts_of(snapshot)
        whole = {
            (data.chart.table, column.plus, column.minus): data.deltas[0, n]
            for data in charts.values()
            if not data.chart.labels and data.chart.kind.cumulative
            for n, column in enumerate(data.chart.columns)
        }
        for data in charts.values():
            if not data.chart.labels or not data.chart.kind.cumulative:
                continue
            for n, column in enumerate(data.chart.columns):
                system = whole.get((data.chart.table, column.plus, column.minus))
                if system is not None:
                    compared.add(data.chart.id)
                    assert data.deltas[:, n].sum() == system, (data.chart.id, column.id)
    assert len(compared) > 20


def test_all_groupings_have_the_same_sums_and_other_and_overflow_come_last(snapshots: list[Snapshot]) -> None:
    prefixes = {grouping.prefix for grouping in groupings().values()}
    assert {"apps", "users", "containers", "processes"} <= prefixes
    for snapshot in snapshots:
        sums: dict[str, list[tuple[int | float, ...]]] = {}
        for id_, data in charts_of(snapshot).items():
            prefix, _, name = id_.partition(".")
            if prefix in prefixes and data.chart.labels:
                sums.setdefault(name, []).append(tuple(data.sums().values()))
                assert data.index.roles[-2:] == (Role.OTHER, Role.OVERFLOW)
                assert len(data) <= 7 + 2
        for name, sums_of_groupings in sums.items():
            assert len(sums_of_groupings) == len(prefixes), name
            assert len(set(sums_of_groupings)) == 1, name


def test_totals_never_decrease_and_continue_unless_a_series_was_forgotten(snapshots: list[Snapshot]) -> None:
    before: dict[tuple[str, Role, tuple[str, ...]], tuple[float, NDArray[np.int64]]] = {}
    for snapshot in snapshots:
        for id_, data in charts_of(snapshot).items():
            if not data.chart.kind.cumulative:
                continue
            for n, series in enumerate(data.series()):
                key = id_, series.role, series.labels
                start_s, totals = before.get(key, (series.start_s, data.totals[n] - data.deltas[n]))
                if start_s == series.start_s:
                    assert (data.totals[n] == totals + data.deltas[n]).all(), key
                else:
                    assert series.start_s == pytest.approx(snapshot.time_s - snapshot.elapsed_s), key
                    assert (data.totals[n] == data.deltas[n]).all(), key
                before[key] = series.start_s, data.totals[n]
    assert {role for _, role, _ in before} == set(Role)


def test_the_load_causes_overflows_and_every_row_has_groups(snapshots: list[Snapshot]) -> None:
    """Otherwise the other tests here would test less than they should."""
    overflow = sum(view.harvest.overflow_calls for snapshot in snapshots for view in snapshot.tables.values())
    assert overflow > 0
    for snapshot in snapshots:
        for view in snapshot.tables.values():
            for groups in view.groups.values():
                assert len(groups.ids) == len(view.harvest.rows)
                assert set(groups.ids.tolist()) <= {0, *groups.names}
