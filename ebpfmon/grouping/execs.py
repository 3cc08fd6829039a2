"""ebpfmon's own probe, which sees every execve(2) (`bpf/execs.bpf.c`). Some groupings use it."""

from __future__ import annotations

from ebpfmon.model import Candidate, Event, Probe

TABLE = "execs"
"""The table of the probe: rows by process, with `arguments` (NUL-terminated each) and `executable` (a file name)."""
SIZE = 4096
"""How many programs can be started in one interval. See EXECS in the C source for the memory it takes."""
_PROGRAMS = ("sched_process_exec_tp_btf", "sched_process_exec_tp", "finalize_exec_fentry", "finalize_exec_kprobe")
EVENTS = (Event("exec", tuple(Candidate(programs=(program,)) for program in _PROGRAMS)),)
PROBE = Probe(name="execs", package="ebpfmon.grouping", object="execs", charts=(), events=EVENTS)
