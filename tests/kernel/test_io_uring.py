"""Requests of io_uring are counted for the process that submits them, whichever thread of the kernel handles them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.symbols import open_symbols
from tests.kernel.support import Monitor, arguments, counts_io_uring

PLAN = {
    "read": 2003, "readv": 103, "read_fixed": 307, "read_end": 67, "read_fail": 89, "write": 1511, "writev": 107,
    "write_fixed": 83, "write_fail": 97, "late_read": 41, "openat": 211, "open_fail": 223, "close_fail": 101,
    "splice": 61, "unlinkat": 131, "rmdir": 137,
}  # fmt: skip
UNKNOWN_TO_THE_KERNEL = 77
"""The exit status of the workload if the kernel refuses io_uring or does not know a request."""


def expected_counts(plan: dict[str, int]) -> dict[str, int]:
    """Return what the workload does, by io_uring and by system calls."""
    vectors = plan.get("readv", 0) + plan.get("readv_fixed", 0), plan.get("writev", 0) + plan.get("writev_fixed", 0)
    opened = 3 + plan["openat"] + plan["open_fail"] + plan.get("direct_read", 0)
    reads = [plan.get(key, 0) for key in ("read", "read_fixed", "read_end", "read_fail", "late_read", "direct_read")]
    writes = [plan[key] for key in ("write", "write_fixed", "write_fail")]
    return {
        "uring_read_calls": sum(reads) + vectors[0],
        "uring_read_bytes": 97 * reads[0] + 89 * reads[1] + reads[4] + 4096 * reads[5] + 131 * vectors[0],
        "uring_write_calls": sum(writes) + vectors[1],
        "uring_write_bytes": 83 * writes[0] + 79 * writes[1] + 131 * vectors[1],
        "uring_errors": plan["read_fail"] + plan["write_fail"],
        "splice_calls": plan["splice"],
        "splice_bytes": 61 * plan["splice"],
        "copy_errors": 0,
        "open_calls": opened,
        "open_errors": plan["open_fail"],
        # Once more for each file that io_uring opens, because the workload finds out the next descriptor.
        "close_calls": 1 + 2 * plan["openat"] + plan["close_fail"] + plan.get("direct_read", 0),
        "close_errors": plan["close_fail"],
        "unlink_calls": 1 + 2 * plan["unlinkat"],
        "unlink_errors": 0,
        # The workload's own reads and writes of pipes.
        "read_calls": plan["splice"],
        "write_calls": plan["late_read"],
    }


def test_the_event_is_attached_if_the_tracepoint_has_the_request() -> None:
    with open_symbols(Libbpf()) as symbols:
        has_request = symbols.tracepoint_arguments("io_uring_complete") in (3, 7)
    assert counts_io_uring() is has_request


@pytest.mark.parametrize(
    ("attach", "thread"), [("auto", "own"), ("auto", "async"), ("auto", "sqpoll"), ("tracepoint", "own")]
)
def test_requests_are_counted_exactly(uring: Path, tmp_path: Path, attach: str, thread: str) -> None:
    if not counts_io_uring():
        pytest.skip("the tracepoint io_uring_complete of this kernel does not have the request")
    plan = {**PLAN, thread: 1}
    for further in ({"readv_fixed": 53, "writev_fixed": 59}, {"direct_read": 47}):
        if not subprocess.run(
            [uring, tmp_path, *arguments(further)], check=False, stderr=subprocess.DEVNULL
        ).returncode:
            plan |= further
    with Monitor({"ebpfmon": {"load_mode": "return", "attach": attach}}) as monitor:
        with subprocess.Popen([uring, tmp_path, *arguments(plan)]) as process:
            status = process.wait()
        if status == UNKNOWN_TO_THE_KERNEL:
            pytest.skip("this kernel refuses io_uring")
        assert status == 0
        monitor.until(lambda: monitor.of(process.pid, b"uring")["tasks_exited"] > 0)
    actual = monitor.of(process.pid, b"uring")
    expected = expected_counts(plan)
    assert {name: actual[name] for name in expected} == expected
