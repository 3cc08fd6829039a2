"""The loader, given objects that the kernel refuses entirely or in part."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from ebpfmon import Candidate, Event, Probe
from ebpfmon.errors import AttachError, ObjectError
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.bpfobject import VERIFIER
from ebpfmon.kernel.compiler import compile_object
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.pipeline.harvest import Harvester
from ebpfmon.pipeline.schedule import SystemClock
from ebpfmon.plugins import registry

BPF = Path(__file__).parents[2] / "bpf"
HEAD = """
#include "ebpfmon.bpf.h"
struct sample_counters { __u64 calls; };
#define TABLE sample
#define TABLE_SIZE 128
#include "process_table.bpf.h"
static __always_inline int on_call(void)
{
	struct sample_counters *counters = sample_find();

	if (counters)
		count(&counters->calls, 1);
	return 0;
}
static __always_inline int read_invalid_memory(void)
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


def load_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, *programs: tuple[str, str], more: str = ""
) -> LoadedProbe:
    """Compile and load a third-party probe with one event. `programs` are pairs of a raw tracepoint and a handler."""
    source, machine = tmp_path / "sample.bpf.c", os.uname().machine
    text = [PROGRAM % (tracepoint, n, handler) for n, (tracepoint, handler) in enumerate(programs)]
    source.write_text("".join([HEAD, more, *text]))
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    compile_object(source, tmp_path / package / "objects" / machine / "sample.bpf.o", machine, BPF)
    monkeypatch.syspath_prepend(tmp_path)
    candidates = tuple(Candidate(programs=(f"program_{n}",)) for n in range(len(programs)))
    events = (Event("exec", candidates),)
    probe = Probe(name="sample", package=package, object="sample", charts=(), events=events)
    return attach.load(probe, Libbpf(), features.detect(), LoadOptions())


def test_the_next_candidate_is_used_if_the_verifier_refuses_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = (
        ("sched_process_exec", "read_invalid_memory"),
        ("task_rename", "on_call"),
        ("no_such_tracepoint", "on_call"),
    )
    with load_probe(tmp_path, monkeypatch, "gives_way", *programs) as loaded:
        (choice,) = loaded.choices
    assert choice.chosen
    assert choice.chosen.target == "task_rename"
    ((refused, reason),) = choice.refused
    assert refused.target == "sched_process_exec"
    assert "invalid mem access" in reason


LONG = """
static __always_inline int do_much_and_read_invalid_memory(void)
{
	volatile __u64 sum = 0;

	for (int i = 0; i < 4000; i++)
		sum += i * 3;
	return sum + *(volatile int *)0x1234;
}
"""


def test_the_reason_is_found_at_the_end_of_a_long_log_of_the_verifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, VERIFIER), pytest.raises(AttachError) as caught:
        load_probe(tmp_path, monkeypatch, "long", ("sched_process_exec", "do_much_and_read_invalid_memory"), more=LONG)
    assert len(caplog.messages[0]) > 1 << 16
    reason = str(caught.value)
    assert "the verifier rejects 'program_0'" in reason
    assert "invalid mem access" in reason


def test_an_interval_without_events_has_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load_probe(tmp_path, monkeypatch, "nothing", ("sched_process_hang", "on_call")) as loaded:
        harvest = Harvester([loaded], SystemClock()).harvest()
    table = harvest.tables["sample"]
    assert (len(table.rows), dict(table.totals), dict(table.overflow)) == (0, {"calls": 0}, {"calls": 0})


def test_a_verifier_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AttachError) as caught:
        load_probe(tmp_path, monkeypatch, "refused", ("sched_process_exec", "read_invalid_memory"))
    assert str(caught.value).startswith("cannot attach 'exec' (probe sample) at 'sched_process_exec': ")
    assert "invalid mem access" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_without_totals_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        load_probe(tmp_path, monkeypatch, "no_totals", ("sched_process_exec", "touch"), more=more)


def test_a_file_that_is_not_an_object_is_an_error_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_shared_facts_about_the_kernel_do_not_change_the_choices() -> None:
    libbpf, found = Libbpf(), features.detect()
    with attach.KernelFacts(libbpf, found) as facts:
        for name in ("network_viewer", "process"):
            probe = registry.discover().probes[name]
            with attach.load(probe, libbpf, found, LoadOptions(), facts=facts) as after:
                seen = after.choices
            with attach.load(probe, libbpf, found, LoadOptions()) as alone:
                assert seen == alone.choices
