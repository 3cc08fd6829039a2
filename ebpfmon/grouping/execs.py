"""The core's own probe, which sees every execve(2) (`bpf/execs.bpf.c`)."""

from __future__ import annotations

from ebpfmon.model import Candidate, Event, Probe

TABLE = "execs"
"""Its table: rows by process, with `arguments` (each ends with a NUL) and `executable` (the name of the file)."""
SIZE = 4096
"""How many programs may be started in one interval. EXECS in the source says what that costs."""
_PROGRAMS = ("sched_process_exec_tp_btf", "sched_process_exec_tp", "finalize_exec_fentry", "finalize_exec_kprobe")
EVENTS = (Event("exec", tuple(Candidate(programs=(program,)) for program in _PROGRAMS)),)
PROBE = Probe(name="execs", package="ebpfmon.grouping", object="execs", charts=(), events=EVENTS)
