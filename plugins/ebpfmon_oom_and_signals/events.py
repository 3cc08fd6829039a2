"""What the probe counts, and by which programs (`oom_and_signals.bpf.c`)."""

from ebpfmon import Candidate, Event


def _at(name: str, tracepoint: str) -> Event:
    return Event(name, tuple(Candidate(programs=(f"{tracepoint}_{kind}",)) for kind in ("tp_btf", "tp")))


EVENTS = (_at("process_death", "sched_process_exit"), _at("oom_victim", "mark_victim"))
