"""The process probe: what processes do with files, and how tasks come and go.

Chart ids, titles, families, dimensions and priorities are those that dashboards made for Netdata's eBPF
collector know (its first era). The fields are the counters of `struct process_counters` in `bpf/process.bpf.c`.
"""

from collections.abc import Sequence

from ebpfmon import Chart, Dimension, Probe, Scope, hookimpl

EBPFMON_API_VERSION = 1

SYSTEM_CHARTS = (
    Chart(
        id="ebpf.file_descriptor", title="Open and close calls", units="calls/s", family="File", priority=21000,
        dimensions=(
            Dimension("do_sys_open", "open", ("open_calls",)),
            Dimension("__close_fd", "close", ("close_calls",)),
        ),
    ),
    Chart(
        id="ebpf.file_error", title="Open and close fails", units="calls/s", family="File", priority=21001,
        return_only=True,
        dimensions=(
            Dimension("do_sys_open", "open", ("open_errors",)),
            Dimension("__close_fd", "close", ("close_errors",)),
        ),
    ),
    Chart(
        id="ebpf.deleted_objects", title="Remove files", units="calls/s", family="VFS", priority=21002,
        dimensions=(Dimension("vfs_unlink", "delete", ("unlink_calls",)),),
    ),
    Chart(
        id="ebpf.io", title="Calls to IO", units="calls/s", family="VFS", priority=21003,
        dimensions=(
            Dimension("vfs_read", "read", ("read_calls",)),
            Dimension("vfs_write", "write", ("write_calls",)),
        ),
    ),
    Chart(
        id="ebpf.io_bytes", title="Bytes written and read", units="bytes/s", family="VFS", priority=21004,
        dimensions=(
            Dimension("vfs_read", "read", ("read_bytes",)),
            Dimension("vfs_write", "write", ("write_bytes",), negative=True),
        ),
    ),
    Chart(
        id="ebpf.io_error", title="Fails to write or read", units="calls/s", family="VFS", priority=21005,
        return_only=True,
        dimensions=(
            Dimension("vfs_unlink", "delete", ("unlink_errors",)),
            Dimension("vfs_read", "read", ("read_errors",)),
            Dimension("vfs_write", "write", ("write_errors",)),
        ),
    ),
    Chart(
        id="ebpf.process_thread", title="Start process", units="calls/s", family="Process", priority=21006,
        dimensions=(
            Dimension("_do_fork", "process", ("processes_created",)),
            Dimension("sys_clone", "thread", ("threads_created",)),
        ),
    ),
    Chart(
        id="ebpf.exit", title="Exit process", units="calls/s", family="Process", priority=21007,
        dimensions=(
            Dimension("do_exit", "process", ("tasks_exited",)),
            Dimension("release_task", "task", ("tasks_released",), negative=True),
        ),
    ),
    Chart(
        id="ebpf.process_status", title="Process not closed", units="difference", family="Process", priority=21008,
        dimensions=(
            Dimension("process", "process", ("processes_created", "threads_created"), ("tasks_exited",)),
            Dimension("zombie", "zombie", ("tasks_exited",), ("tasks_released",)),
        ),
    ),
    Chart(
        id="ebpf.task_error", title="Fails to create process", units="calls/s", family="Process", priority=21009,
        return_only=True,
        dimensions=(
            Dimension("_do_fork", "process", ("processes_failed",)),
            Dimension("sys_clone", "thread", ("threads_failed",)),
        ),
    ),
)  # fmt: skip


def _by_application(
    priority: int, id_: str, title: str, family: str, field: str, units: str = "calls/s", *, return_only: bool = False
) -> Chart:
    return Chart(
        id=f"apps.{id_}", title=title, units=units, family=f"ebpf {family}", priority=priority, scope=Scope.APPS,
        dimensions=(Dimension("application", "application", (field,)),), return_only=return_only,
    )  # fmt: skip


APPLICATION_CHARTS = (
    _by_application(20061, "file_open", "Number of open files", "file", "open_calls"),
    _by_application(20062, "file_open_error", "Fails to open files", "file", "open_errors", return_only=True),
    _by_application(20063, "file_closed", "Files closed", "file", "close_calls"),
    _by_application(20064, "file_close_error", "Fails to close files", "file", "close_errors", return_only=True),
    _by_application(20065, "file_deleted", "Files deleted", "vfs", "unlink_calls"),
    _by_application(20066, "vfs_write_call", "Write to disk", "vfs", "write_calls"),
    _by_application(20067, "vfs_write_error", "Fails to write", "vfs", "write_errors", return_only=True),
    _by_application(20068, "vfs_read_call", "Read from disk", "vfs", "read_calls"),
    _by_application(20069, "vfs_read_error", "Fails to read", "vfs", "read_errors", return_only=True),
    _by_application(20070, "vfs_write_bytes", "Bytes written on disk", "vfs", "write_bytes", "bytes/s"),
    _by_application(20071, "vfs_read_bytes", "Bytes read from disk", "vfs", "read_bytes", "bytes/s"),
    _by_application(20072, "process_create", "Process started", "process", "processes_created"),
    _by_application(20073, "thread_create", "Threads started", "process", "threads_created"),
    _by_application(20074, "task_close", "Tasks closed", "process", "tasks_released"),
)
CHARTS = SYSTEM_CHARTS + APPLICATION_CHARTS


@hookimpl
def ebpfmon_register_probes() -> Sequence[Probe]:
    return [Probe(name="process", package=__name__, object="process", charts=CHARTS)]
