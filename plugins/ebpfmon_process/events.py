"""The events of the process probe, each with its candidate programs in `process.bpf.c`."""

from ebpfmon import Candidate, Event, LoadMode


def _call(name: str, count: str, functions: dict[str, int], *, needs_return: bool = False) -> Event:
    """Return the event of a call, counted at one of its `functions` or at the exit of system calls.

    `functions` maps each function to its number of arguments. Functions that are joined by `+` are used together.
    `count` names the settings that make the programs at sys_exit count the event. If the result does not matter, a
    kprobe is preferred to a kretprobe, because it costs less and cannot miss a call.
    """

    def at(functions: str, kind: str) -> tuple[str, ...]:
        return tuple(f"{function}_{kind}" for function in functions.split("+"))

    returns = [
        Candidate(programs=at(f, "kretprobe"), mode=None if needs_return else LoadMode.RETURN) for f in functions
    ]
    entries = [Candidate(programs=at(f, "kprobe"), mode=LoadMode.ENTRY) for f in functions]
    return Event(
        name,
        (
            *(Candidate(programs=at(f, "fexit"), arguments=n) for f, n in functions.items()),
            *(() if needs_return else entries),
            *returns,
            Candidate(programs=("sys_exit_tp_btf",), setting=f"raw_counts_{count}"),
            Candidate(programs=("sys_exit_tp",), setting=f"classic_counts_{count}"),
        ),
    )


def _entry_points(call: str) -> dict[str, int]:
    """Return the functions of a system call. On x86-64, 32-bit programs have their own, if the kernel runs them."""
    return {f"__x64_sys_{call}+__ia32_sys_{call}": 1, f"__x64_sys_{call}": 1, f"__arm64_sys_{call}": 1}


EVENTS = (
    _call("file_open", "open", {"do_sys_openat2": 3, "do_sys_open": 4}),
    _call("file_close", "close", {"file_close_fd": 1, "close_fd": 1, "__close_fd": 2}),
    _call("file_close_range", "close_range", _entry_points("close_range")),
    _call("vfs_read", "read", {"vfs_read": 4}, needs_return=True),
    _call("vfs_readv", "readv", {"vfs_readv": 5}, needs_return=True),
    _call("vfs_write", "write", {"vfs_write": 4}, needs_return=True),
    _call("vfs_writev", "writev", {"vfs_writev": 5}, needs_return=True),
    _call("vfs_unlink", "unlink", {"do_unlinkat": 2, "filename_unlinkat": 2}),
    _call("copy_file_range", "copy_file_range", _entry_points("copy_file_range"), needs_return=True),
    _call("sendfile", "sendfile", {"do_sendfile": 5}, needs_return=True),
    _call("splice", "splice", _entry_points("splice"), needs_return=True),
    Event(
        "io_uring",
        (
            # With other numbers of arguments (before Linux 5.19), the tracepoint lacks the request, or the request
            # lacks its result.
            Candidate(programs=("io_uring_complete_tp_btf",), arguments=3),
            Candidate(programs=("io_uring_complete_tp_btf",), arguments=7),
            Candidate(programs=("io_uring_complete_tp",), arguments=3),
            Candidate(programs=("io_uring_complete_tp",), arguments=7),
        ),
        optional=True,
    ),
    Event(
        "task_create",
        (
            Candidate(programs=("task_newtask_tp_btf",)),
            Candidate(programs=("task_newtask_tp",)),
            Candidate(programs=("wake_up_new_task_fentry",)),
            Candidate(programs=("wake_up_new_task_kprobe",)),
        ),
    ),
    Event(
        "task_exit",
        (
            Candidate(programs=("sched_process_exit_tp_btf",)),
            Candidate(programs=("sched_process_exit_tp",)),
            Candidate(programs=("do_exit_fentry",)),
            Candidate(programs=("do_exit_kprobe",)),
        ),
    ),
    Event(
        "task_release",
        (
            Candidate(programs=("sched_process_free_tp_btf",)),
            Candidate(programs=("cgroup_task_release_fentry",)),
            Candidate(programs=("cgroup_release_fentry",)),
            Candidate(programs=("cgroup_task_release_kprobe",)),
            Candidate(programs=("cgroup_release_kprobe",)),
        ),
    ),
    Event(
        "task_fail",
        (
            Candidate(programs=("kernel_clone_fexit",), mode=LoadMode.RETURN),
            # The kprobe stores the arguments, because a kretprobe has none.
            Candidate(programs=("kernel_clone_kprobe", "kernel_clone_kretprobe"), mode=LoadMode.RETURN),
            Candidate(programs=("sys_exit_tp_btf",), mode=LoadMode.RETURN, setting="raw_counts_failed_clone"),
            Candidate(programs=("sys_exit_tp",), mode=LoadMode.RETURN, setting="classic_counts_failed_clone"),
        ),
    ),
)
