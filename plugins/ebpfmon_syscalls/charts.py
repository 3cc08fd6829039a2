"""The charts of the system calls probe, for all calls and by name. The fields are the counters in `syscalls.bpf.c`."""

from ebpfmon import Buckets, Chart, Column, Dimension, Kind

SLOTS = 24
LATENCY = Buckets.log2("latency", SLOTS, 0.5, "microseconds", sum="call_ns", sum_units="nanoseconds")
_CALLS, _ERRORS = "syscalls", "syscall_errors"  # names of tables
_FAMILY = "Syscalls"
LABELS = {_CALLS: ("syscall",), _ERRORS: ("syscall", "error")}
"""The labels of each table's rows."""

CHARTS = (
    Chart(
        id="ebpf.syscalls", title="System calls", units="calls/s", family=_FAMILY, priority=21600, table=_CALLS,
        dimensions=(Dimension("calls", "calls", ("calls",)), Dimension("errors", "errors", ("errors",))),
    ),
    Chart(
        id="ebpf.syscalls_under_way", title="Threads in a system call", units="calls", family=_FAMILY, priority=21601,
        table=_CALLS, kind=Kind.GAUGE,
        dimensions=(Dimension("calls", "calls", ("calls",), ("ended", "unfollowed")),),
    ),
    Chart(
        id="ebpf.syscalls_latency", title="Time of a system call", units="calls/s", family=_FAMILY, priority=21602,
        table=_CALLS, buckets=LATENCY,
    ),
    Chart(
        id="ebpf.syscalls_unfollowed", title="System calls that were not followed", units="calls/s", family=_FAMILY,
        priority=21603, table=_CALLS, dimensions=(Dimension("unfollowed", "not followed", ("unfollowed",)),),
    ),
    Chart(
        id="ebpf.syscall_calls", title="System calls by name", units="calls/s", family=_FAMILY, priority=21610,
        table=_CALLS, labels=LABELS[_CALLS],
        dimensions=(Dimension("calls", "calls", ("calls",)), Dimension("errors", "errors", ("errors",))),
    ),
    Chart(
        id="ebpf.syscall_under_way", title="Threads in a system call by name", units="calls", family=_FAMILY,
        priority=21611, table=_CALLS, labels=LABELS[_CALLS], kind=Kind.GAUGE,
        dimensions=(Dimension("now", "under way", ("calls",), ("ended", "unfollowed")),),
    ),
    Chart(
        id="ebpf.syscall_latency", title="Time of a system call by name", units="calls/s", family=_FAMILY,
        priority=21612, table=_CALLS, labels=LABELS[_CALLS], buckets=LATENCY,
    ),
    Chart(
        id="ebpf.syscall_errors", title="Errors of system calls", units="calls/s", family=_FAMILY, priority=21613,
        table=_ERRORS, labels=LABELS[_ERRORS], separator=" ", dimensions=(Dimension.value("failures"),),
    ),
)  # fmt: skip

COLUMNS = (
    Column(id="calls", header="CALLS", fields=("calls",), table=_CALLS),
    Column(id="errors", header="ERRORS", fields=("errors",), units="errors/s", table=_CALLS),
    Column(id="failures", header="FAILURES", fields=("failures",), units="errors/s", table=_ERRORS),
)
