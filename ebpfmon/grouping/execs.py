"""The core's own probe: what processes became with execve(2) (`bpf/execs.bpf.c`)."""

from __future__ import annotations

from ebpfmon.model.everything import Probe

TABLE = "execs"
"""Its table: rows by process, with `arguments` (each ends with a NUL) and `executable` (the file's name)."""
SIZE = 4096
"""Programs that may be started in one interval; EXECS in the source says what they cost."""
PROBE = Probe(name="execs", package="ebpfmon.grouping", object="execs", charts=())
