"""Very many destinations, and all programs' shares: whatever is shown, the sums are those of everything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ebpfmon import Snapshot
from tests.kernel import network
from tests.kernel.namespaces import DEFAULT
from tests.kernel.network import PLAN, assert_balanced
from tests.kernel.support import Monitor

MANY = 30_000
BYTES = 61


def sums(snapshot: Snapshot, chart: str) -> dict[str, int]:
    """A chart's values in an interval, by dimension."""
    found = [values for values in snapshot.charts if values.chart.id == chart]
    return {value.dimension.id: int(value.delta) for values in found for value in values.values}


@pytest.mark.parametrize("size", [1000, 65536])
@pytest.mark.parametrize("maximum", [10, 500])
def test_destinations_have_no_more_dimensions_than_they_may(traffic: Path, maximum: int, size: int) -> None:
    viewer = {"ips": "*", "maximum_dimensions": maximum, "table_size": size}
    with Monitor({"plugins": {"network_viewer": viewer}}) as monitor:
        one = network.run(traffic, "127.0.0.1", {"dest": MANY})
    assert_balanced(monitor.snapshots)
    for snapshot in monitor.snapshots:
        for values in snapshot.charts:
            if values.chart.table in ("outbound", "inbound"):
                assert len(values.values) <= maximum, values.chart.id
    # the busiest ones, so that the chart is full
    assert max(len(sums(s, "ebpf.outbound_bytes")) for s in monitor.snapshots) == maximum
    rows = monitor.rows("outbound")
    own = rows[rows["tgid"] == one.client]
    own = own[own["port"] == 9]
    overflow = sum(s.tables["outbound"].overflow["sent_calls"] for s in monitor.snapshots)
    if size > MANY:
        assert len(set(own[["address_high", "address_low"]].tolist())) == MANY
        assert (own["sent_calls"].sum(), own["sent_bytes"].sum()) == (MANY, MANY * BYTES)
        assert overflow == 0
    else:
        assert all(len(s.tables["outbound"].rows) <= size for s in monitor.snapshots)
        assert MANY - own["sent_calls"].sum() <= overflow
        assert sum(s.tables["outbound"].totals["sent_bytes"] for s in monitor.snapshots) >= MANY * BYTES
    other = sum(sums(s, "ebpf.outbound_packets")["other:ALL:other_sent"] for s in monitor.snapshots)
    assert other >= MANY - maximum * len(monitor.snapshots)


# each chart of applications, and what it is in the system's
SHARES = {
    "apps.bandwidth_sent": (("ebpf.tcp_bandwidth", "tcp_sendmsg"), ("ebpf.udp_bandwidth", "udp_sendmsg")),
    "apps.bandwidth_recv": (("ebpf.tcp_bandwidth", "tcp_cleanup_rbuf"), ("ebpf.udp_bandwidth", "udp_recvmsg")),
    "apps.bandwidth_tcp_send": (("ebpf.tcp_functions", "tcp_sendmsg"),),
    "apps.bandwidth_tcp_recv": (("ebpf.tcp_functions", "tcp_cleanup_rbuf"),),
    "apps.bandwidth_tcp_retransmit": (("ebpf.tcp_retransmit", "tcp_retransmit_skb"),),
    "apps.bandwidth_udp_send": (("ebpf.udp_functions", "udp_sendmsg"),),
    "apps.bandwidth_udp_recv": (("ebpf.udp_functions", "udp_recvmsg"),),
}


def assert_shares(snapshots: Sequence[Snapshot]) -> None:
    """In every interval all applications together did what the system did."""
    for snapshot in snapshots:
        for chart, parts in SHARES.items():
            whole = sum(sums(snapshot, of)[dimension] for of, dimension in parts)
            assert sum(sums(snapshot, chart).values()) == whole, (chart, snapshot.time_s)


def test_applications_share_all_that_is_sent_and_received(traffic: Path, tmp_path: Path) -> None:
    # of names that nobody else's processes have, on a machine where others test too
    programs = [tmp_path / f"t{number}-{os.getpid()}" for number in range(3)]
    for program in programs:
        shutil.copy(traffic, program)
    plan = PLAN | {"dest": 5003}
    with Monitor(DEFAULT) as monitor, ThreadPoolExecutor() as all_at_once:
        list(all_at_once.map(lambda program: network.run(program, "127.0.0.1", plan), programs))
    assert_shares(monitor.snapshots)
    calls, size = network.moved(PLAN, "tcp")
    udp_calls, udp_size = network.moved(PLAN, "udp")
    wanted = {
        "apps.bandwidth_sent": size + udp_size + 5003 * BYTES,
        "apps.bandwidth_recv": size + udp_size,
        "apps.bandwidth_tcp_send": calls + PLAN["tcp_epipe"],
        "apps.bandwidth_udp_send": udp_calls + 5003,
        # what is only looked at is a call too, and so is what is not there yet
        "apps.bandwidth_tcp_recv": calls + PLAN["tcp_peek"] + PLAN["tcp_eagain"],
        "apps.bandwidth_udp_recv": udp_calls + PLAN["udp_peek"] + PLAN["udp_eagain"],
    }
    for program in programs:
        for chart, amount in wanted.items():
            found = sum(
                int(value.delta)
                for snapshot in monitor.snapshots
                for values in snapshot.charts
                if values.chart.id == chart
                for value in values.values
                if value.dimension.name == program.name
            )
            assert found == amount, (program.name, chart)


def test_applications_share_it_where_the_table_is_full(traffic: Path) -> None:
    with Monitor({"plugins": {"network_viewer": {"table_size": 2}}}) as monitor, ThreadPoolExecutor() as all_at_once:
        list(all_at_once.map(lambda _: network.run(traffic, "127.0.0.1", PLAN), range(3)))
    assert_shares(monitor.snapshots)
    assert sum(sums(s, "apps.bandwidth_sent")["overflow"] for s in monitor.snapshots) > 0
