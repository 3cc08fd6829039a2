"""The charts of the process probe.

Except for the charts of copies and of io_uring, ids, titles, families, dimensions and priorities are those of the first
generation of Netdata's eBPF collector, so that dashboards made for it keep working. The fields are the counters of
`struct process_counters` in `process.h`.
"""

from ebpfmon import Chart, Column, Dimension

_COPIES = ("copy_file_range", "sendfile", "splice")

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
    Chart(
        id="ebpf.copy_calls", title="Calls that copy between descriptors", units="calls/s", family="VFS",
        priority=21010,
        dimensions=tuple(Dimension(call, call, (f"{call}_calls",)) for call in _COPIES),
    ),
    Chart(
        id="ebpf.copy_bytes", title="Bytes copied between descriptors", units="bytes/s", family="VFS", priority=21011,
        dimensions=tuple(Dimension(call, call, (f"{call}_bytes",)) for call in _COPIES),
    ),
    Chart(
        id="ebpf.copy_error", title="Fails to copy between descriptors", units="calls/s", family="VFS", priority=21012,
        return_only=True, dimensions=(Dimension("copy", "copy", ("copy_errors",)),),
    ),
    Chart(
        id="ebpf.io_uring", title="Reads and writes by io_uring", units="calls/s", family="VFS", priority=21013,
        dimensions=(
            Dimension("read", "read", ("uring_read_calls",)),
            Dimension("write", "write", ("uring_write_calls",)),
        ),
    ),
    Chart(
        id="ebpf.io_uring_bytes", title="Bytes read and written by io_uring", units="bytes/s", family="VFS",
        priority=21014,
        dimensions=(
            Dimension("read", "read", ("uring_read_bytes",)),
            Dimension("write", "write", ("uring_write_bytes",), negative=True),
        ),
    ),
    Chart(
        id="ebpf.io_uring_error", title="Fails to read or write by io_uring", units="calls/s", family="VFS",
        priority=21015, return_only=True, dimensions=(Dimension("io", "io", ("uring_errors",)),),
    ),
)  # fmt: skip


def _grouped(
    priority: int, id_: str, title: str, family: str, *fields: str, units: str = "calls/s", return_only: bool = False
) -> Chart:
    return Chart(
        id=id_, title=title, units=units, family=f"ebpf {family}", priority=priority, grouped=True,
        dimensions=(Dimension.value(*fields),), return_only=return_only,
    )  # fmt: skip


GROUPED_CHARTS = (
    _grouped(20061, "file_open", "Number of open files", "file", "open_calls"),
    _grouped(20062, "file_open_error", "Fails to open files", "file", "open_errors", return_only=True),
    _grouped(20063, "file_closed", "Files closed", "file", "close_calls"),
    _grouped(20064, "file_close_error", "Fails to close files", "file", "close_errors", return_only=True),
    _grouped(20065, "file_deleted", "Files deleted", "vfs", "unlink_calls"),
    _grouped(20066, "vfs_write_call", "Write to disk", "vfs", "write_calls"),
    _grouped(20067, "vfs_write_error", "Fails to write", "vfs", "write_errors", return_only=True),
    _grouped(20068, "vfs_read_call", "Read from disk", "vfs", "read_calls"),
    _grouped(20069, "vfs_read_error", "Fails to read", "vfs", "read_errors", return_only=True),
    _grouped(20070, "vfs_write_bytes", "Bytes written on disk", "vfs", "write_bytes", units="bytes/s"),
    _grouped(20071, "vfs_read_bytes", "Bytes read from disk", "vfs", "read_bytes", units="bytes/s"),
    _grouped(20072, "process_create", "Process started", "process", "processes_created"),
    _grouped(20073, "thread_create", "Threads started", "process", "threads_created"),
    _grouped(20074, "task_close", "Tasks closed", "process", "tasks_released"),
    _grouped(20090, "copy_calls", "Copies", "vfs", *(f"{call}_calls" for call in _COPIES)),
    _grouped(20091, "copy_bytes", "Bytes copied", "vfs", *(f"{call}_bytes" for call in _COPIES), units="bytes/s"),
    _grouped(20092, "io_uring_read_calls", "Reads by io_uring", "vfs", "uring_read_calls"),
    _grouped(20093, "io_uring_write_calls", "Writes by io_uring", "vfs", "uring_write_calls"),
    _grouped(20094, "io_uring_read_bytes", "Bytes read by io_uring", "vfs", "uring_read_bytes", units="bytes/s"),
    _grouped(20095, "io_uring_write_bytes", "Bytes written by io_uring", "vfs", "uring_write_bytes", units="bytes/s"),
)
CHARTS = SYSTEM_CHARTS + GROUPED_CHARTS

COLUMNS = (
    Column(id="open", header="OPEN", fields=("open_calls",), letter="O", width=5, rank=10),
    Column(id="close", header="CLOSE", fields=("close_calls",), letter="C", width=5, rank=12),
    Column(id="read", header="READ", fields=("read_calls",), letter="R", rank=2),
    Column(id="rbytes", header="RBYTES", fields=("read_bytes",), units="bytes/s", name="read", letter="B", rank=4),
    Column(id="write", header="WRITE", fields=("write_calls",), letter="W", rank=3),
    Column(id="wbytes", header="WBYTES", fields=("write_bytes",), units="bytes/s", name="write", letter="Y", rank=5),
    Column(id="unlink", header="UNLINK", fields=("unlink_calls",), letter="D", rank=13),
    Column(
        id="new", header="NEW", fields=("processes_created", "threads_created"), units="tasks/s", letter="F", width=4,
        rank=11,
    ),
    Column(id="exit", header="EXIT", fields=("tasks_exited",), units="tasks/s", width=4, summary=True),
    Column(
        id="err", header="ERR", units="errors/s", letter="E", width=5, rank=8, return_only=True,
        fields=(
            "open_errors", "close_errors", "read_errors", "write_errors", "unlink_errors", "copy_errors",
            "uring_errors", "processes_failed", "threads_failed",
        ),
    ),
)  # fmt: skip
