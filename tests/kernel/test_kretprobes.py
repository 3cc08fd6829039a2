"""kretprobes have enough instances, report what they miss, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ebpfmon import LoadMode
from ebpfmon.kernel import attach, features, kprobe_events
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.attach_methods import Kernel
from ebpfmon.kernel.kretprobes import Kretprobes
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.symbols import open_symbols
from ebpfmon.plugins import registry
from tests.kernel.support import until
from tests.kernel.test_daemon import running

FOUND = features.detect()
pytestmark = pytest.mark.skipif(not FOUND.kprobes, reason="this kernel has no kprobes")
READ = {"x86_64": 0, "aarch64": 63}[os.uname().machine]
READERS = 20  # More than the default number of instances: ten, or two per CPU.


@pytest.fixture
def pooled() -> None:
    """Skip the test unless kretprobes have a pool of instances. Otherwise nothing can be missed or left behind."""
    with open_symbols(Libbpf()) as symbols:
        if Kernel.of(symbols, FOUND).unlimited_kretprobes:
            pytest.skip("this kernel's kretprobes never run out of instances")


def load() -> LoadedProbe:
    options = LoadOptions(attach_method="kprobe", mode=LoadMode.RETURN)
    return attach.load(registry.discover().probes["process"], Libbpf(), FOUND, options)


def kprobes_of_ebpfmon() -> list[str]:
    """Return the kprobes that ebpfmon processes, running or ended, have in `kprobe_events`."""
    return [str(e) for e in kprobe_events.entries(FOUND.tracefs or "") if e.owner]


def counted_reads(probe: LoadedProbe, count: int) -> int:
    """Read `count` times, and return how many of these reads were counted."""
    harvest(probe)
    zero = os.open("/dev/zero", os.O_RDONLY)
    for _ in range(count):
        os.read(zero, 1)
    os.close(zero)
    rows = harvest(probe)
    return int(rows["read_calls"][rows["tgid"] == os.getpid()].sum())


def harvest(probe: LoadedProbe) -> np.ndarray:
    buffer = probe.active_buffer.swap()
    probe.tables[0].wait_for_programs(buffer)
    return probe.tables[0].drain(buffer).rows


@contextmanager
def asleep_in_read(count: int) -> Iterator[None]:
    """Start `count` processes that wait for input from a pipe."""
    with ExitStack() as stack:
        for _ in range(count):
            cat = stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
            stack.callback(cat.kill)
            until(partial(_sleeps, cat.pid))
        yield


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/syscall").read_text().startswith(f"{READ} 0x0 ")  # A read of standard input.


def test_sleeping_readers_do_not_hide_other_reads() -> None:
    with load() as probe, asleep_in_read(READERS):
        assert counted_reads(probe, 101) == 101
        assert probe.missed_runs() == 0


def test_calls_without_an_instance_are_reported_as_missed(pooled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "Kretprobes", partial(Kretprobes, maxactive=1))
    with load() as probe, asleep_in_read(READERS):
        assert counted_reads(probe, 101) == 0
        assert probe.missed_runs() >= 101


def test_a_killed_daemon_leaves_no_kprobe(pooled: None) -> None:
    with running("--attach", "kprobe") as daemon:
        assert [e for e in kprobes_of_ebpfmon() if e.startswith(f"ebpfmon_{daemon.pid}/")]
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        until(lambda: not [e for e in kprobes_of_ebpfmon() if e.startswith(f"ebpfmon_{daemon.pid}/")])


def test_a_daemon_that_ends_leaves_no_kprobe(pooled: None) -> None:
    with running("--attach", "kprobe") as daemon:
        assert [e for e in kprobes_of_ebpfmon() if e.startswith(f"ebpfmon_{daemon.pid}/")]
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert not [e for e in kprobes_of_ebpfmon() if e.startswith(f"ebpfmon_{daemon.pid}/")]
