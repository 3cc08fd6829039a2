"""The events of the system calls probe, each with its candidate programs in `syscalls.bpf.c`."""

from ebpfmon import Candidate, Event


def _tracepoint_event(name: str, tracepoint: str) -> Event:
    return Event(name, tuple(Candidate(programs=(f"{tracepoint}_{kind}",)) for kind in ("tp_btf", "tp")))


EVENTS = (
    _tracepoint_event("syscall_enter", "sys_enter"),
    _tracepoint_event("syscall_exit", "sys_exit"),
    _tracepoint_event("thread_exit", "sched_process_exit"),
)
