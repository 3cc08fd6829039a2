"""The commands `ebpfmon run` and `ebpfmon check`, run as a user runs them."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import ebpfmon
from tests.kernel.support import DEFAULTS, EBPFMON, PLAN, counts_of, run_workload

SCHEMA = ebpfmon.snapshot_schema()


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run `ebpfmon run`, and yield when it has written its first snapshot."""
    command = [*EBPFMON, "run", *DEFAULTS, "--json", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline(), process.stderr and process.stderr.read()
            yield process
        finally:
            process.kill()


def test_json_lines_follow_the_schema_and_show_the_workload(workload: Path, tmp_path: Path) -> None:
    with running("--load-mode", "return") as process:
        run_workload(workload, tmp_path, PLAN)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    lines = [json.loads(line) for line in out.splitlines()]
    for line in lines:
        jsonschema.validate(line, SCHEMA)
    assert all(line["complete"] for line in lines)
    expected = counts_of(PLAN)
    # Other processes may do the same at the same time, so the counts are minimums.
    assert total(lines, "ebpf.task_error", "_do_fork") >= expected["processes_failed"]
    assert total(lines, "ebpf.task_error", "sys_clone") >= expected["threads_failed"]
    assert total(lines, "ebpf.io_bytes", "vfs_write") >= expected["write_bytes"]
    assert total(lines, "ebpf.file_error", "__close_fd") >= expected["close_errors"]


def total(lines: list[dict[str, Any]], chart: str, dimension: str) -> int:
    """Return the sum of a dimension's deltas, and check its running total."""
    series = [each for line in lines for c in line["charts"] if c["id"] == chart for each in c["series"]]
    shown = [d for each in series for d in each["dimensions"] if d["id"] == dimension]
    for before, after in itertools.pairwise(shown):
        assert before["total"] + after["delta"] == after["total"]
    return sum(d["delta"] for d in shown)


def test_entry_mode_has_no_error_charts_and_json_has_stdout_to_itself() -> None:
    done = subprocess.run(
        [*EBPFMON, "run", *DEFAULTS, "--json", "--for", "1.2"], capture_output=True, text=True, check=True
    )
    for line in done.stdout.splitlines():
        ids = {c["id"] for c in json.loads(line)["charts"]}
        assert not ids & {"ebpf.file_error", "ebpf.io_error", "ebpf.task_error"}
        assert {"ebpf.io", "ebpf.io_bytes", "ebpfmon.cpu"} <= ids
    assert "probe 'process'" in done.stderr


def test_a_second_of_text_is_readable() -> None:
    done = subprocess.run([*EBPFMON, "run", *DEFAULTS, "--for", "1.2"], capture_output=True, text=True, check=True)
    assert re.search(
        r"^  VFS +Bytes written and read +read +[\d.]+ [kMG]?B +write +[\d.]+ [kMG]?B +bytes/s$", done.stdout, re.M
    )
    assert re.search(r"^  ebpfmon  swap [\d.]+, drain [\d.]+ milliseconds \| .* MB", done.stdout, re.M)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_daemon_after_it_has_sent_the_last_interval(number: signal.Signals) -> None:
    with running("--interval", "4") as process:
        process.send_signal(number)
        out, _ = process.communicate(timeout=5)
        assert process.returncode == 0
    (last,) = (json.loads(line) for line in out.splitlines())
    assert last["elapsed_s"] < 3


def ids_of(process: subprocess.Popen[str]) -> dict[str, set[int]]:
    """Return the ids of the programs, maps and links that a process holds, from /proc/PID/fdinfo."""
    ids: dict[str, set[int]] = {"prog": set(), "map": set(), "link": set()}
    for entry in Path(f"/proc/{process.pid}/fdinfo").iterdir():
        for kind, number in re.findall(r"^(prog|map|link)_id:\t(\d+)$", entry.read_text(), re.M):
            ids[kind].add(int(number))
    return ids


def alive(ids: dict[str, set[int]]) -> set[tuple[str, int]]:
    """Return those of the ids that the kernel still has."""
    libbpf = ctypes.CDLL("libbpf.so.1")
    left = set()
    for kind, numbers in ids.items():
        for number in numbers:
            fd = getattr(libbpf, f"bpf_{kind}_get_fd_by_id")(number)
            if fd >= 0:
                os.close(fd)
                left.add((kind, number))
    return left


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_stays_in_the_kernel(number: signal.Signals) -> None:
    with running() as process:
        ids = ids_of(process)
        assert ids["prog"]
        assert ids["map"]
        assert ids["link"]
        assert alive(ids) == {(kind, n) for kind, numbers in ids.items() for n in numbers}
        process.send_signal(number)
        process.wait(10)
    end = time.monotonic() + 10
    while alive(ids) and time.monotonic() < end:  # The kernel frees them after an RCU grace period.
        time.sleep(0.05)
    assert not alive(ids)


def test_check_shows_the_attach_method_of_each_event() -> None:
    done = subprocess.run(
        [*EBPFMON, "check", *DEFAULTS, "--json", "--load-mode", "return"], capture_output=True, check=True
    )
    verdict = json.loads(done.stdout)
    events = {p["name"]: len(p["events"]) for p in verdict["probes"]}
    assert events.pop("network_viewer") in (12, 13)  # Up to Linux 6.4, sendfile is an event of its own.
    assert events.pop("process") in (16, 17)  # close_range of 32-bit programs has a function of its own on x86-64.
    assert events == {"execs": 1}
    assert all(event["attach_method"] for probe in verdict["probes"] for event in probe["events"])
    text = subprocess.run([*EBPFMON, "check", *DEFAULTS], capture_output=True, text=True, check=True).stdout
    assert "  vfs_read           " in text


def test_an_unavailable_attach_method_is_an_error_with_event_target_and_reason() -> None:
    unavailable = [s for s in ("trampoline", "kprobe") if _refused(s)]
    for method in unavailable:
        done = subprocess.run(
            [*EBPFMON, "run", *DEFAULTS, "--attach", method], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert re.fullmatch(
            rf"ebpfmon: cannot attach 'datagram' \(probe network_viewer\) by {method} at 'skb_consume_udp': .+\n",
            done.stderr,
        )


def _refused(method: str) -> bool:
    verdict = subprocess.run(
        [*EBPFMON, "check", *DEFAULTS, "--json", "--attach", method], capture_output=True, check=False
    )
    return verdict.returncode == 2


def test_without_root_one_line_tells_what_is_missing() -> None:
    # Drop capabilities instead of changing the user, because only root may be able to read this tree.
    lowered = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *EBPFMON, "run", *DEFAULTS]
    done = subprocess.run(lowered, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"ebpfmon: cannot load BPF programs: not permitted.+\n", done.stderr)
    assert done.stdout == ""


def test_if_bpf_is_not_allowed_one_line_says_so() -> None:
    unshare = ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("user namespaces are not available (for example in a chroot)")
    done = subprocess.run([*unshare, *EBPFMON, "run", *DEFAULTS], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        r"ebpfmon: cannot load 'network_viewer\.bpf\.o': not permitted by the kernel; run as root, .+\n", done.stderr
    )


def test_the_daemon_ends_when_its_reader_does() -> None:
    done = subprocess.run(
        f"{' '.join([*EBPFMON, 'run', *DEFAULTS])} --json --for 60 | head -n 1",
        shell=True,
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout)["schema"] == 2


def test_a_rotated_file_is_reopened(tmp_path: Path) -> None:
    settings, log = tmp_path / "ebpfmon.toml", tmp_path / "ebpfmon.json"
    settings.write_text(f'[[sinks]]\ntype = "log"\nformat = "json"\npath = "{log}"\n')
    with subprocess.Popen([*EBPFMON, "run", "--config", settings], stderr=subprocess.DEVNULL) as process:
        try:
            _until(lambda: log.exists() and log.stat().st_size > 0)
            log.rename(tmp_path / "rotated")
            _until(lambda: log.exists() and log.stat().st_size > 0)
        finally:
            process.terminate()
    assert process.returncode == 0
    rotated = (tmp_path / "rotated").read_text().splitlines()
    times = [json.loads(line)["time"] for line in [*rotated, *log.read_text().splitlines()]]
    assert times == sorted(set(times))


def _until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
