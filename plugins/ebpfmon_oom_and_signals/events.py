"""The events of the OOM and signals probe, each with its candidate programs in `oom_and_signals.bpf.c`."""

from ebpfmon import Candidate, Event


def _tracepoint_event(name: str, tracepoint: str) -> Event:
    return Event(name, tuple(Candidate(programs=(f"{tracepoint}_{kind}",)) for kind in ("tp_btf", "tp")))


EVENTS = (_tracepoint_event("process_death", "sched_process_exit"), _tracepoint_event("oom_victim", "mark_victim"))
