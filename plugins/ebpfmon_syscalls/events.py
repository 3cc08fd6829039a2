"""What the system calls probe counts, and by which programs (`syscalls.bpf.c`)."""

from ebpfmon import Candidate, Event


def _at(name: str, tracepoint: str) -> Event:
    return Event(name, tuple(Candidate(programs=(f"{tracepoint}_{kind}",)) for kind in ("tp_btf", "tp")))


EVENTS = (
    _at("syscall_enter", "sys_enter"),
    _at("syscall_exit", "sys_exit"),
    _at("thread_exit", "sched_process_exit"),
)
