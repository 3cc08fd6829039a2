"""What the loader makes of objects that the kernel refuses, wholly or in part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebpfmon import Candidate, Event, Probe
from ebpfmon.errors import AttachError, ObjectError
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.compiler import compile_object
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.pipeline.harvest import Harvester
from ebpfmon.pipeline.schedule import SystemClock
from ebpfmon.plugins import registry

BPF = Path(__file__).parents[2] / "bpf"
HEAD = """
#include "ebpfmon.bpf.h"
struct strange_counters { __u64 calls; };
#define TABLE strange
#define TABLE_SIZE 128
#include "process_table.bpf.h"
static __always_inline int on_call(void)
{
	struct strange_counters *counters = strange_find();

	if (counters)
		count(&counters->calls, 1);
	return 0;
}
static __always_inline int read_wildly(void)
{
	return *(volatile int *)0x1234;
}
char LICENSE[] SEC("license") = "GPL";
"""
PROGRAM = """
SEC("tp_btf/%s")
int BPF_PROG(program_%d)
{
	return %s();
}
"""


def strange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, *programs: tuple[str, str], more: str = ""
) -> LoadedProbe:
    """Compile and load a probe of one event, as a third party would write it: a raw tracepoint and a handler each."""
    source, machine = tmp_path / "strange.bpf.c", os.uname().machine
    text = [PROGRAM % (tracepoint, n, handler) for n, (tracepoint, handler) in enumerate(programs)]
    source.write_text("".join([HEAD, more, *text]))
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    compile_object(source, tmp_path / package / "objects" / machine / "strange.bpf.o", machine, BPF)
    monkeypatch.syspath_prepend(tmp_path)
    candidates = tuple(Candidate(programs=(f"program_{n}",)) for n in range(len(programs)))
    events = (Event("exec", candidates),)
    probe = Probe(name="strange", package=package, object="strange", charts=(), events=events)
    return attach.load(probe, Libbpf(), features.detect(), LoadOptions())


def test_a_program_that_the_verifier_refuses_gives_way_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = (
        ("sched_process_exec", "read_wildly"),
        ("task_rename", "on_call"),
        ("no_such_tracepoint", "on_call"),
    )
    with strange(tmp_path, monkeypatch, "gives_way", *programs) as loaded:
        (choice,) = loaded.choices
    assert choice.chosen
    assert choice.chosen.target == "task_rename"
    ((refused, reason),) = choice.refused
    assert refused.target == "sched_process_exec"
    assert "invalid mem access" in reason


def test_an_interval_in_which_nothing_happened_has_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with strange(tmp_path, monkeypatch, "nothing", ("sched_process_hang", "on_call")) as loaded:
        harvest = Harvester([loaded], SystemClock()).harvest()
    table = harvest.tables["strange"]
    assert (len(table.rows), dict(table.totals), dict(table.overflow)) == (0, {"calls": 0}, {"calls": 0})


def test_a_verifier_error_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttachError) as caught:
        strange(tmp_path, monkeypatch, "refused", ("sched_process_exec", "read_wildly"))
    assert str(caught.value).startswith("cannot attach 'exec' (probe strange) at 'sched_process_exec': ")
    assert "invalid mem access" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_without_totals_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = """
struct other_counters { __u64 calls; };
#define TABLE other
#define TABLE_SIZE 64
#define TABLE_KEY struct process_key
#define TABLE_ROW struct other_counters
#define other_totals no_totals
#include "table_maps.bpf.h"
static __always_inline int touch(void)
{
	__u32 buffer = current_buffer();

	return bpf_map_lookup_elem(&other_rows, &buffer) ? on_call() : 0;
}
"""
    with pytest.raises(ObjectError, match="table 'other' has no per-CPU array 'other_totals'"):
        strange(tmp_path, monkeypatch, "no_totals", ("sched_process_exec", "touch"), more=more)


def test_a_file_that_is_no_object_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken" / "objects" / os.uname().machine
    broken.mkdir(parents=True)
    (tmp_path / "broken" / "__init__.py").touch()
    probe = Probe(name="broken", package="broken", object="broken", charts=())
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ObjectError, match=r"cannot find the object of probe 'broken': no '.*broken\.bpf\.o'"):
        attach.load(probe, Libbpf(), features.detect(), LoadOptions())
    (broken / "broken.bpf.o").write_bytes(b"not an ELF file")
    with pytest.raises(ObjectError, match=r"open '.*broken\.bpf\.o'"):
        attach.load(probe, Libbpf(), features.detect(), LoadOptions())


def test_what_is_known_of_the_kernel_already_changes_nothing_in_how_a_probe_is_seen() -> None:
    """Whatever this kernel refuses: it is found out once, and said of every probe in the same words."""
    libbpf, found = Libbpf(), features.detect()
    with attach.KernelFacts(libbpf, found) as facts:
        for name in ("network_viewer", "process"):
            probe = registry.discover().probes[name]
            with attach.load(probe, libbpf, found, LoadOptions(), facts=facts) as after:
                seen = after.choices
            with attach.load(probe, libbpf, found, LoadOptions()) as alone:
                assert seen == alone.choices
