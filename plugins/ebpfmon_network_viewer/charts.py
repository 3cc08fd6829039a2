"""The charts of the network viewer.

Ids, titles, families, dimensions and priorities are those of Netdata's eBPF collector, so that dashboards made for it
keep working. The fields are the counters in `processes.h` and `destinations.h`.
"""

from ebpfmon import Chart, Column, Dimension

_NETWORK, _OUTBOUND, _INBOUND = "network", "outbound", "inbound"  # names of tables
LABELS = {_OUTBOUND: ("port", "protocol", "address"), _INBOUND: ("port", "protocol")}
"""The labels of each table's rows: a remote port and address (outbound), or a local port (inbound)."""

SYSTEM_CHARTS = (
    Chart(
        id="ebpf.tcp_functions", title="Calls to internal functions", units="calls/s", family="Socket", priority=21070,
        table=_NETWORK,
        dimensions=(
            Dimension("tcp_sendmsg", "sent", ("tcp_send_calls",)),
            Dimension("tcp_cleanup_rbuf", "received", ("tcp_recv_calls",)),
            Dimension("tcp_close", "close", ("tcp_close_calls",)),
        ),
    ),
    Chart(
        id="ebpf.tcp_bandwidth", title="TCP bandwidth", units="bytes/s", family="Socket", priority=21071,
        table=_NETWORK,
        dimensions=(
            Dimension("tcp_sendmsg", "sent", ("tcp_send_bytes",), negative=True),
            Dimension("tcp_cleanup_rbuf", "received", ("tcp_recv_bytes",)),
        ),
    ),
    Chart(
        id="ebpf.tcp_error", title="TCP errors", units="calls/s", family="Socket", priority=21072,
        table=_NETWORK, return_only=True,
        dimensions=(
            Dimension("tcp_sendmsg", "sent", ("tcp_send_errors",)),
            Dimension("tcp_cleanup_rbuf", "received", ("tcp_recv_errors",)),
        ),
    ),
    Chart(
        id="ebpf.tcp_retransmit", title="Segments retransmitted", units="segments/s", family="Socket", priority=21073,
        table=_NETWORK,
        dimensions=(Dimension("tcp_retransmit_skb", "retransmitted", ("tcp_retransmits",)),),
    ),
    Chart(
        id="ebpf.udp_functions", title="UDP calls", units="calls/s", family="Socket", priority=21074, table=_NETWORK,
        dimensions=(
            Dimension("udp_sendmsg", "sent", ("udp_send_calls",)),
            Dimension("udp_recvmsg", "received", ("udp_recv_calls",)),
        ),
    ),
    Chart(
        id="ebpf.udp_bandwidth", title="UDP bandwidth", units="bytes/s", family="Socket", priority=21075,
        table=_NETWORK,
        dimensions=(
            Dimension("udp_sendmsg", "sent", ("udp_send_bytes",), negative=True),
            Dimension("udp_recvmsg", "received", ("udp_recv_bytes",)),
        ),
    ),
    Chart(
        id="ebpf.udp_error", title="UDP errors", units="calls/s", family="Socket", priority=21076,
        table=_NETWORK, return_only=True,
        dimensions=(
            Dimension("udp_sendmsg", "sent", ("udp_send_errors",)),
            Dimension("udp_recvmsg", "received", ("udp_recv_errors",)),
        ),
    ),
    Chart(
        id="ip.inbound_conn", title="Inbound connections", units="connections/s", family="Socket", priority=21077,
        table=_NETWORK,
        dimensions=(Dimension("connection_tcp", "accepted", ("tcp_accepted",)),),
    ),
    Chart(
        id="ip.tcp_outbound_conn", title="TCP outbound connections", units="connections/s", family="Socket",
        priority=21078, table=_NETWORK,
        dimensions=(
            Dimension("tcp_v4_connect", "IPv4", ("tcp_connects_v4",)),
            Dimension("tcp_v6_connect", "IPv6", ("tcp_connects_v6",)),
            Dimension("failed", "failed", ("tcp_connects_failed",)),
        ),
    ),
)  # fmt: skip


def _grouped(priority: int, id_: str, title: str, units: str, *fields: str) -> Chart:
    return Chart(
        id=id_, title=title, units=units, family="ebpf net", priority=priority, grouped=True, table=_NETWORK,
        dimensions=(Dimension.value(*fields),),
    )  # fmt: skip


GROUPED_CHARTS = (
    _grouped(20080, "bandwidth_sent", "Bytes sent", "bytes/s", "tcp_send_bytes", "udp_send_bytes"),
    _grouped(20081, "bandwidth_recv", "Bytes received", "bytes/s", "tcp_recv_bytes", "udp_recv_bytes"),
    _grouped(20082, "bandwidth_tcp_send", "TCP calls that send", "calls/s", "tcp_send_calls"),
    _grouped(20083, "bandwidth_tcp_recv", "TCP calls that receive", "calls/s", "tcp_recv_calls"),
    _grouped(20084, "bandwidth_tcp_retransmit", "TCP segments retransmitted", "segments/s", "tcp_retransmits"),
    _grouped(20085, "bandwidth_udp_send", "UDP calls that send", "calls/s", "udp_send_calls"),
    _grouped(20086, "bandwidth_udp_recv", "UDP calls that receive", "calls/s", "udp_recv_calls"),
)


def _by_destination(
    priority: int, id_: str, title: str, units: str, table: str, dimensions: tuple[Dimension, ...]
) -> Chart:
    return Chart(
        id=f"ebpf.{id_}", title=title, units=units, family="Network connections", priority=priority,
        labels=LABELS[table], unbounded=True, table=table, dimensions=dimensions,
    )  # fmt: skip


_BYTES = (
    Dimension("sent", "sent", ("sent_bytes",), negative=True),
    Dimension("recv", "recv", ("received_bytes",)),
)
_CALLS = (
    Dimension("sent", "sent", ("sent_calls",), negative=True),
    Dimension("recv", "recv", ("received_calls",)),
)
_RETRANSMITS = (Dimension.value("retransmits"),)

DESTINATION_CHARTS = (
    _by_destination(21080, "outbound_bytes", "Outbound connections (bytes)", "bytes/s", _OUTBOUND, _BYTES),
    _by_destination(21082, "outbound_packets", "Outbound connections (calls)", "calls/s", _OUTBOUND, _CALLS),
    _by_destination(
        21083, "outbound_retransmit", "Outbound connections (retransmits)", "segments/s", _OUTBOUND, _RETRANSMITS
    ),
    _by_destination(21084, "inbound_bytes", "Inbound connections (bytes)", "bytes/s", _INBOUND, _BYTES),
    _by_destination(21085, "inbound_packets", "Inbound connections (calls)", "calls/s", _INBOUND, _CALLS),
)
CHARTS = SYSTEM_CHARTS + GROUPED_CHARTS + DESTINATION_CHARTS

COLUMNS = (
    Column(
        id="sent", header="SENT", fields=("tcp_send_bytes", "udp_send_bytes"), units="bytes/s", letter="S", rank=6,
        name="sent", table=_NETWORK,
    ),
    Column(
        id="recv", header="RECV", fields=("tcp_recv_bytes", "udp_recv_bytes"), units="bytes/s", letter="V", rank=7,
        name="recv", table=_NETWORK,
    ),
    Column(
        id="err", header="ERR", units="errors/s", letter="E", width=5, rank=8, return_only=True, table=_NETWORK,
        fields=(
            "tcp_send_errors", "tcp_recv_errors", "udp_send_errors", "udp_recv_errors", "tcp_connects_failed",
        ),
    ),
    *(
        column
        for table in (_OUTBOUND, _INBOUND)
        for column in (
            Column(id="bytes_sent", header="SENT", fields=("sent_bytes",), units="bytes/s", table=table),
            Column(id="bytes_received", header="RECV", fields=("received_bytes",), units="bytes/s", table=table),
            Column(id="calls_sent", header="SENDS", fields=("sent_calls",), table=table),
            Column(id="calls_received", header="RECVS", fields=("received_calls",), table=table),
            Column(id="retransmits", header="RETRANS", fields=("retransmits",), units="segments/s", table=table),
        )
    ),
)  # fmt: skip
