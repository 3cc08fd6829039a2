"""Very many destinations, and traffic by program: the series add up to the totals, however few are shown."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ebpfmon import VALUE, ChartData, Role, Snapshot
from tests.kernel import network
from tests.kernel.namespaces import DEFAULT
from tests.kernel.network import PLAN, assert_balanced
from tests.kernel.support import Monitor

MANY = 30_000
BYTES = 61


def chart_of(snapshot: Snapshot, id: str) -> ChartData:
    """Return a chart that every snapshot must have."""
    data = snapshot.chart(id)
    assert data
    return data


def of_role(monitor: Monitor, chart: str, column: int, role: Role) -> int:
    """Return the sum of the series with a role, over all intervals."""
    series = [s for data in monitor.charts(chart) for s in data.series()]
    return sum(int(s.deltas[column]) for s in series if s.role is role)


@pytest.mark.parametrize("size", [1000, 65536])
@pytest.mark.parametrize("maximum", [10, 500])
def test_charts_of_destinations_have_no_more_dimensions_than_the_maximum(
    traffic: Path, maximum: int, size: int
) -> None:
    viewer = {"ips": "*", "maximum_dimensions": maximum, "table_size": size}
    with Monitor({"plugins": {"network_viewer": viewer}}) as monitor:
        one = network.run(traffic, "127.0.0.1", {"dest": MANY})
    assert_balanced(monitor.snapshots)
    for snapshot in monitor.snapshots:
        for data in snapshot.charts:
            if data.chart.table in ("outbound", "inbound"):
                assert data.deltas.size <= maximum, data.chart.id
    # The chart of outbound destinations is full.
    assert max(data.deltas.size for data in monitor.charts("ebpf.outbound_bytes")) == maximum
    rows = monitor.rows("outbound")
    own = rows[rows["tgid"] == one.client]
    own = own[own["port"] == 9]
    overflow = sum(table.overflow["sent_calls"] for table in monitor.harvests("outbound"))
    if size > MANY:
        assert len(set(own[["address_high", "address_low"]].tolist())) == MANY
        assert (own["sent_calls"].sum(), own["sent_bytes"].sum()) == (MANY, MANY * BYTES)
        assert overflow == 0
    else:
        assert all(len(table.rows) <= size for table in monitor.harvests("outbound"))
        assert MANY - own["sent_calls"].sum() <= overflow
        assert sum(table.totals["sent_bytes"] for table in monitor.harvests("outbound")) >= MANY * BYTES
    other = of_role(monitor, "ebpf.outbound_packets", 0, Role.OTHER)
    assert other == monitor.total("ebpf.outbound_packets", "sent", port="other", protocol="ALL", address="other")
    assert other >= MANY - maximum * len(monitor.snapshots)


# Each chart by process, with the dimensions of the system's charts that have its total.
SHARES = {
    "processes.bandwidth_sent": (("ebpf.tcp_bandwidth", "tcp_sendmsg"), ("ebpf.udp_bandwidth", "udp_sendmsg")),
    "processes.bandwidth_recv": (("ebpf.tcp_bandwidth", "tcp_cleanup_rbuf"), ("ebpf.udp_bandwidth", "udp_recvmsg")),
    "processes.bandwidth_tcp_send": (("ebpf.tcp_functions", "tcp_sendmsg"),),
    "processes.bandwidth_tcp_recv": (("ebpf.tcp_functions", "tcp_cleanup_rbuf"),),
    "processes.bandwidth_tcp_retransmit": (("ebpf.tcp_retransmit", "tcp_retransmit_skb"),),
    "processes.bandwidth_udp_send": (("ebpf.udp_functions", "udp_sendmsg"),),
    "processes.bandwidth_udp_recv": (("ebpf.udp_functions", "udp_recvmsg"),),
}


def assert_shares(snapshots: Sequence[Snapshot]) -> None:
    """Assert that in every interval, all programs together have the system's totals."""
    for snapshot in snapshots:
        for chart, parts in SHARES.items():
            whole = sum(chart_of(snapshot, of).sums()[dimension] for of, dimension in parts)
            assert chart_of(snapshot, chart).sums() == {VALUE: whole}, (chart, snapshot.time_s)


def test_applications_together_have_all_that_is_sent_and_received(traffic: Path, tmp_path: Path) -> None:
    # Unique names, because other tests may run on the same machine.
    programs = [tmp_path / f"t{number}-{os.getpid()}" for number in range(3)]
    for program in programs:
        shutil.copy(traffic, program)
    plan = PLAN | {"dest": 5003}
    with Monitor(DEFAULT) as monitor, ThreadPoolExecutor() as all_at_once:
        list(all_at_once.map(lambda program: network.run(program, "127.0.0.1", plan), programs))
    assert_shares(monitor.snapshots)
    calls, size = network.calls_and_bytes(PLAN, "tcp")
    udp_calls, udp_size = network.calls_and_bytes(PLAN, "udp")
    expected = {
        "processes.bandwidth_sent": size + udp_size + 5003 * BYTES,
        "processes.bandwidth_recv": size + udp_size,
        "processes.bandwidth_tcp_send": calls + PLAN["tcp_epipe"],
        "processes.bandwidth_udp_send": udp_calls + 5003,
        # A call that peeks counts, and so does one that finds no data.
        "processes.bandwidth_tcp_recv": calls + PLAN["tcp_peek"] + PLAN["tcp_eagain"],
        "processes.bandwidth_udp_recv": udp_calls + PLAN["udp_peek"] + PLAN["udp_eagain"],
    }
    for program in programs:
        for chart, amount in expected.items():
            assert monitor.total(chart, VALUE, process=program.name) == amount, (program.name, chart)


def test_applications_add_up_if_the_table_is_full(traffic: Path) -> None:
    with Monitor({"plugins": {"network_viewer": {"table_size": 2}}}) as monitor, ThreadPoolExecutor() as all_at_once:
        list(all_at_once.map(lambda _: network.run(traffic, "127.0.0.1", PLAN), range(3)))
    assert_shares(monitor.snapshots)
    assert of_role(monitor, "processes.bandwidth_sent", 0, Role.OVERFLOW) > 0
