"""The charts of the block I/O probe, for all disks and by disk. The fields are the counters in `block_io.bpf.c`."""

from ebpfmon import Buckets, Chart, Column, Dimension, Kind

SLOTS = 24
OPERATIONS = ("read", "write", "flush", "discard")
_WITH_BYTES = ("read", "write", "discard")  # A flush transfers no bytes.
_FAMILY = "Disks"
LABELS = ("disk",)


def _each(suffix: str, operations: tuple[str, ...] = OPERATIONS, minus: str = "") -> tuple[Dimension, ...]:
    return tuple(
        Dimension(
            op, op, (f"{op}_{suffix}",), (f"{op}_{minus}",) if minus else (), negative=op == "write" and not minus
        )
        for op in operations
    )


def _latency(operation: str) -> Buckets:
    return Buckets.log2(
        f"{operation}_latency", SLOTS, 8, "microseconds", sum=f"{operation}_ns", sum_units="nanoseconds"
    )


def _charts(labels: tuple[str, ...], name: str, suffix: str, priority: int) -> tuple[Chart, ...]:
    return (
        Chart(
            id=f"ebpf.{name}_io", title=f"Bytes moved{suffix}", units="bytes/s", family=_FAMILY, priority=priority,
            labels=labels, dimensions=_each("bytes", _WITH_BYTES),
        ),
        Chart(
            id=f"ebpf.{name}_requests", title=f"Requests completed{suffix}", units="requests/s", family=_FAMILY,
            priority=priority + 1, labels=labels, dimensions=_each("requests"),
        ),
        Chart(
            id=f"ebpf.{name}_errors", title=f"Requests that failed{suffix}", units="requests/s", family=_FAMILY,
            priority=priority + 2, labels=labels, dimensions=_each("errors"),
        ),
        Chart(
            id=f"ebpf.{name}_in_flight", title=f"Requests in flight{suffix}", units="requests", family=_FAMILY,
            priority=priority + 3, labels=labels, kind=Kind.GAUGE, dimensions=_each("issued", minus="requests"),
        ),
        *(
            Chart(
                id=f"ebpf.{name}_{op}_latency", title=f"Time of a {op}{suffix}", units="requests/s", family=_FAMILY,
                priority=priority + 4 + n, labels=labels, buckets=_latency(op),
            )
            for n, op in enumerate(OPERATIONS)
        ),
    )  # fmt: skip


UNFOLLOWED = Chart(
    id="ebpf.block_unfollowed", title="Requests that were not followed", units="requests/s", family=_FAMILY,
    priority=21508, dimensions=(Dimension("unfollowed", "not followed", ("unfollowed",)),),
)  # fmt: skip
CHARTS = (
    *_charts((), "block", "", 21500),
    UNFOLLOWED,
    *_charts(LABELS, "disk", " by disk", 21510),
)

COLUMNS = (
    *(Column(id=f"{op}_bytes", header=op.upper(), fields=(f"{op}_bytes",), units="bytes/s") for op in _WITH_BYTES),
    *(
        Column(id=f"{op}_requests", header=f"{op.upper()}S", fields=(f"{op}_requests",), units="requests/s")
        for op in OPERATIONS
    ),
)
