"""SIGTERM and SIGINT always stop the daemon, whatever was done to them before."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ebpfmon.cli.common import FAILURE

STOPPED = 7
WAITING = f"""
import os, signal, threading, time
BEFORE
from ebpfmon.cli.stopping import SignalThread
held = threading.Event()
with SignalThread(lambda: os._exit({STOPPED}), held.wait):
    AFTER
    held.set()
    time.sleep(60)
"""


def status(before: str, after: str) -> int:
    """Return the exit status of a process that runs these statements before and after it handles signals."""
    script = WAITING.replace("BEFORE", before).replace("AFTER", after)
    return subprocess.run([sys.executable, "-c", script], timeout=30).returncode


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_that_was_blocked_before_the_start_stops_the_daemon(name: str) -> None:
    before = f"signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.{name}}})"
    assert status(before, f"os.kill(os.getpid(), signal.{name})") == STOPPED


def test_sigterm_stops_the_daemon_even_if_a_plugin_or_the_parent_ignores_it() -> None:
    assert status("signal.signal(15, signal.SIG_IGN)", "os.kill(os.getpid(), 15)") == STOPPED


def test_a_signal_after_any_number_of_other_signals_is_not_lost() -> None:
    """The buffer that Python writes signals to has room for some hundred; the thread is busy and reads none."""
    assert status("", "[os.kill(os.getpid(), 1) for _ in range(5000)]; os.kill(os.getpid(), 15)") == STOPPED


def test_a_lack_of_memory_at_sighup_does_not_hide_sigterm() -> None:
    script = f"""
import os, signal, time
from ebpfmon.cli.stopping import SignalThread
def fail():
    os.kill(os.getpid(), signal.SIGTERM)
    raise MemoryError
with SignalThread(lambda: os._exit({STOPPED}), fail):
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(60)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == STOPPED


def test_a_process_that_hangs_ends_even_if_there_is_no_memory_to_say_why() -> None:
    script = """
import os, signal, time
from ebpfmon.cli import stopping
def fail():
    raise MemoryError
stopping._blocking_threads, stopping.END_S = fail, 0.0
with stopping.SignalThread(fail, None):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == FAILURE
