"""`ebpfmon top`, as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.kernel.support import arguments

LIVE = [sys.executable, "-m", "ebpfmon", "top"]
TOP = [*LIVE, "--once"]


@pytest.mark.parametrize("mode", ["processes", "groups"])
def test_one_second_adds_up_to_the_totals_and_shows_who_is_busy(workload: Path, tmp_path: Path, mode: str) -> None:
    with subprocess.Popen([workload, tmp_path, *arguments({}, storm=20, workers=2)], stdout=subprocess.DEVNULL) as busy:
        try:
            more = ["--groups", "--by", "process"] if mode == "groups" else ["--filter", str(busy.pid)]
            done = subprocess.run([*TOP, "--json", "--lines", "100000", *more], capture_output=True, check=True)
        finally:
            busy.kill()
    shown = json.loads(done.stdout)
    assert shown["elapsed_s"] > 0.5
    if mode == "groups":
        for counter, total in shown["totals"].items():
            assert sum(line[counter] for line in shown["groups"]) + shown["overflow"][counter] == total
        (line,) = [line for line in shown["groups"] if line["group"] == "workload"]
        assert line == shown["groups"][0], "sorted by reads"
    else:
        (line,) = shown["processes"]
        assert (line["pid"], line["command"]) == (busy.pid, "workload")
    assert line["read_calls"] == line["read_bytes"] > 10_000


def test_one_second_is_text_of_eighty_columns_where_the_output_is_no_terminal() -> None:
    done = subprocess.run([*TOP, "--lines", "3"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ebpfmon top  ")
    assert max(map(len, lines)) <= 80
    heading = next(n for n, line in enumerate(lines) if "COMMAND" in line)
    shown = len(lines) - heading - 1
    assert 1 <= shown <= 3
    assert lines[heading - 1].startswith(f"processes 1-{shown} of ")
    assert not done.stderr


def test_it_is_drawn_on_a_terminal_and_keys_switch_group_and_quit() -> None:
    ours, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    seen = b""
    with subprocess.Popen(LIVE, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE) as top:

        def until(what: bytes) -> None:
            nonlocal seen
            end = time.monotonic() + 30
            while what not in seen:
                assert time.monotonic() < end, seen[-2000:]
                if select.select([ours], [], [], 0.1)[0]:
                    seen += os.read(ours, 65536)
            seen = seen.partition(what)[2]

        try:
            until(b"grouped by application")
            os.write(ours, b"b")
            until(b"grouped by process")
            os.write(ours, b"g")
            until(b"PROCS")
            os.write(ours, b"q")
            until(b"\x1b[?1049l")
            assert top.wait(10) == 0
        finally:
            top.kill()
        assert top.stderr
        assert top.stderr.read() == b""
    assert termios.tcgetattr(terminal) == before
    os.close(ours)
    os.close(terminal)


def test_where_there_is_no_terminal_it_says_what_to_do() -> None:
    done = subprocess.run(LIVE, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ebpfmon: top: stdout is not a terminal; use --once, with --json for programs\n"
