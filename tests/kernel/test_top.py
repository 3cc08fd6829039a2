"""The command `ebpfmon top`, run as a user runs it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.support import DEFAULTS, EBPFMON, arguments

LIVE = [*EBPFMON, "top", *DEFAULTS]
TOP = [*LIVE, "--once"]


@pytest.mark.parametrize("mode", ["processes", "groups"])
def test_once_adds_up_to_the_totals_and_shows_the_busy_process(workload: Path, tmp_path: Path, mode: str) -> None:
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


def test_once_is_text_of_eighty_columns_if_the_output_is_not_a_terminal() -> None:
    done = subprocess.run([*TOP, "--lines", "3"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ebpfmon top  ")
    assert max(map(len, lines)) <= 80
    heading = next(n for n, line in enumerate(lines) if "COMMAND" in line)
    shown = len(lines) - heading - 1
    assert 1 <= shown <= 3
    assert lines[heading - 1].startswith(f"processes 1-{shown} of ")
    assert not done.stderr


def test_on_a_terminal_keys_switch_the_grouping_and_quit() -> None:
    controller, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    output = b""
    environment = {**os.environ, "TERM": "xterm"}  # A dumb terminal has no second screen.
    with subprocess.Popen(LIVE, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, env=environment) as top:

        def wait_for(text: bytes) -> None:
            nonlocal output
            end = time.monotonic() + 30
            while text not in output:
                assert time.monotonic() < end, output[-2000:]
                if select.select([controller], [], [], 0.1)[0]:
                    output += os.read(controller, 65536)
            output = output.partition(text)[2]

        try:
            wait_for(b"grouped by application")
            os.write(controller, b"b")
            wait_for(b"grouped by process")
            os.write(controller, b"g")
            wait_for(b"PROCS")
            os.write(controller, b"q")
            wait_for(b"\x1b[?1049l")
            assert top.wait(10) == 0
        finally:
            top.kill()
        assert top.stderr
        assert top.stderr.read() == b""
    assert termios.tcgetattr(terminal) == before
    os.close(controller)
    os.close(terminal)


def test_without_a_terminal_the_error_says_what_to_do() -> None:
    done = subprocess.run(LIVE, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ebpfmon: top: stdout is not a terminal; use --once, or --once --json for programs\n"


def control_terminal() -> None:
    """Make stdin the controlling terminal of a new session, with this process in its foreground."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def on_terminal(terminal: int, command: Sequence[str], **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that controls the terminal, and kill it at the end."""
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, preexec_fn=control_terminal, env=environment, **more
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(controller: int, text: bytes) -> bytes:
    output, end = b"", time.monotonic() + 60
    while text not in output:
        assert time.monotonic() < end, f"no {text!r} in {output!r}"
        if select.select([controller], [], [], 1)[0]:
            output += os.read(controller, 1 << 16)
    return output


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """Yield the two ends of a terminal of 80 columns."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    yield controller, terminal
    os.close(controller)
    os.close(terminal)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_top_with_the_terminal_as_it_was(ends: tuple[int, int], number: signal.Signals) -> None:
    controller, terminal = ends
    before = termios.tcgetattr(terminal)
    with on_terminal(terminal, LIVE, stderr=subprocess.PIPE) as top:
        read_until(controller, b"COMMAND")
        assert termios.tcgetattr(terminal) != before
        top.send_signal(number)
        output = read_until(controller, b"\x1b[?1049l")  # leaves the screen of full-screen programs
        assert b"\x1b[?7h" in output  # automatic wrap
        assert top.wait(30) == 0
        assert termios.tcgetattr(terminal) == before
        assert top.stderr
        assert top.stderr.read() == b""


def test_a_stopped_top_leaves_the_terminal_as_it_was_and_comes_back(ends: tuple[int, int]) -> None:
    controller, terminal = ends
    before = termios.tcgetattr(terminal)
    with on_terminal(terminal, LIVE) as top:
        read_until(controller, b"COMMAND")
        during = termios.tcgetattr(terminal)
        top.send_signal(signal.SIGTSTP)
        read_until(controller, b"\x1b[?1049l")
        os.waitid(os.P_PID, top.pid, os.WSTOPPED)
        assert termios.tcgetattr(terminal) == before
        top.send_signal(signal.SIGCONT)
        read_until(controller, b"COMMAND")
        assert termios.tcgetattr(terminal) == during
        top.send_signal(signal.SIGTERM)
        read_until(controller, b"\x1b[?1049l")
        assert top.wait(30) == 0
    assert termios.tcgetattr(terminal) == before


def test_in_the_background_top_leaves_the_terminal_alone_and_ends_at_sigterm(ends: tuple[int, int]) -> None:
    controller, terminal = ends
    before = termios.tcgetattr(terminal)
    # timeout(1) makes itself a background job, and sends SIGTERM.
    shell = ["/bin/sh", "-c", 'timeout 5 "$@"; echo "status $?"', "sh", *LIVE]
    with on_terminal(terminal, shell, stderr=terminal) as sh:
        assert read_until(controller, b"status ").startswith(b"status ")
        sh.wait(30)
    assert termios.tcgetattr(terminal) == before
