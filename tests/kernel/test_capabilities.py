"""Capabilities belong to threads, cannot be regained once dropped, and few are needed for a harvest."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from ebpfmon import LoadMode
from ebpfmon.errors import KernelError, SettingsError
from ebpfmon.grouping import execs
from ebpfmon.kernel import attach, capabilities, features
from ebpfmon.kernel.attach import LoadedProbe, LoadOptions
from ebpfmon.kernel.capabilities import drop, held, held_by_any_thread, needed, switch_user
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.model import Probe
from ebpfmon.plugins import registry
from tests.kernel.support import remove_memlock_limit

NONE: frozenset[str] = frozenset()
ALL = held()
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
OPENED = 211


def status(*names: str) -> list[str]:
    """Return fields of the calling thread's status in /proc."""
    lines = dict(line.split(":\t") for line in Path("/proc/thread-self/status").read_text().splitlines())
    return [lines[name] for name in names]


def mask(names: frozenset[str]) -> str:
    return f"{sum(1 << capabilities.NAMES.index(n) for n in names):016x}"


def in_child(work: Callable[[], object]) -> Any:
    """Run `work` in a forked child, and return its result through JSON. The child exits without Python's clean-up."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Since Python 3.12, fork() warns if there are threads.
        child = os.fork()
    if not child:
        _run_child(writer, work)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, answer.decode()
    return msgspec.json.decode(answer)


def _run_child(writer: int, work: Callable[[], object]) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        os.write(writer, msgspec.json.encode(work()))
        code = 0
    except BaseException:
        os.write(writer, traceback.format_exc().encode())
    finally:
        os._exit(code)


def in_thread(work: Callable[[], object]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in failed:
        raise error


@pytest.fixture
def probe() -> Iterator[LoadedProbe]:
    """The process probe, loaded as in the daemon."""
    with attach.load(registry.discover().probes["process"], Libbpf(), features.detect(), LoadOptions()) as loaded:
        yield loaded


def harvest(probe: LoadedProbe) -> dict[int, int]:
    """Harvest one interval, and return how many files each process opened."""
    buffer = probe.active_buffer.swap()
    probe.tables[0].wait_for_programs(buffer)
    rows = probe.tables[0].drain(buffer).rows
    probe.missed_runs()
    return {int(row["tgid"]): int(row["open_calls"]) for row in rows}


def harvest_of_opened_files(probe: LoadedProbe) -> int:
    """Open OPENED files, and return how many were counted."""
    harvest(probe)
    for _ in range(OPENED):
        os.close(os.open("/dev/null", os.O_RDONLY))
    return harvest(probe)[os.getpid()]


def test_dropping_all_capabilities_affects_only_the_calling_thread() -> None:
    before = status(*SETS)
    dropped, over = threading.Event(), threading.Event()

    def work() -> None:
        drop(NONE)
        dropped.set()
        over.wait(10)
        assert status(*SETS, "NoNewPrivs") == ["0" * 16] * 5 + ["1"]
        assert held() == NONE

    def another() -> None:
        assert dropped.wait(10)
        assert status(*SETS) == before
        assert held_by_any_thread() == ALL
        over.set()

    waiting = threading.Thread(target=another)
    waiting.start()
    in_thread(work)
    waiting.join()
    assert over.is_set()
    assert status(*SETS) == before


def test_a_started_program_gets_no_more_than_the_kept_capabilities() -> None:
    def work() -> None:
        drop(frozenset({"sys_nice", "chown"}) | {"sys_time"} - ALL)
        kept = mask(frozenset({"sys_nice", "chown"}))
        assert status(*SETS) == ["0" * 16, kept, kept, kept, "0" * 16]
        script = ["cat", "/proc/self/status"]
        started = subprocess.run(script, capture_output=True, text=True, check=True).stdout
        assert f"CapEff:\t{kept}" in started  # Root gets everything that the bounding set allows.

    in_thread(work)


def test_dropped_capabilities_cannot_be_regained() -> None:
    def work() -> object:
        drop(NONE)
        with pytest.raises(KernelError, match="set capabilities: Operation not permitted"):
            capabilities._set({"bpf"})
        with pytest.raises(KernelError, match="cannot change to user 'nobody': Operation not permitted; start as root"):
            switch_user("nobody", NONE)
        return status(*SETS)

    assert in_child(work) == ["0" * 16] * 5


def test_become_fails_if_a_thread_has_dropped_capabilities() -> None:
    def work() -> None:
        drop(NONE)
        with pytest.raises(KernelError, match="cannot change to user 'nobody': some threads have"):
            switch_user("nobody", NONE)

    in_thread(work)


def test_a_capability_without_a_name_is_shown_as_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "NAMES", capabilities.NAMES[:39])
    assert "39" in held()  # CAP_BPF

    def work() -> None:
        drop(frozenset({"39"}))
        assert held() == {"39"}

    in_thread(work)


def test_become_keeps_the_given_capabilities_and_there_is_no_way_back() -> None:
    def work() -> object:
        switch_user("nobody", frozenset({"bpf"}))
        with pytest.raises(PermissionError):
            os.setuid(0)
        return [os.getresuid(), os.getresgid(), os.getgroups(), *status("CapPrm", "CapEff", "CapAmb")]

    found, bpf = pwd.getpwnam("nobody"), mask(frozenset({"bpf"}))
    groups = os.getgrouplist("nobody", found.pw_gid)
    assert in_child(work) == [[found.pw_uid] * 3, [found.pw_gid] * 3, groups, bpf, bpf, "0" * 16]


def test_become_the_same_user_again_only_drops_capabilities() -> None:
    def work() -> object:
        switch_user("nobody", frozenset({"bpf", "perfmon"}))
        switch_user("nobody", frozenset({"bpf"}))
        return sorted(held())

    assert in_child(work) == ["bpf"]


@pytest.mark.parametrize("user", ["no-such-user", "", "a\0b"])
def test_an_unknown_user_is_a_settings_error(user: str) -> None:
    with pytest.raises(SettingsError, match="there is no such user"):
        switch_user(user, NONE)
    assert held() == ALL


@pytest.mark.parametrize(
    ("enough", "found"),
    [({"bpf"}, {"bpf"}), ({"sys_admin"}, {"sys_admin"}), ({"bpf", "dac_read_search"}, {"bpf", "dac_read_search"}),
     (set(), set())],
)  # fmt: skip
def test_needed_returns_the_fewest_capabilities_that_suffice(enough: set[str], found: set[str]) -> None:
    tried: list[frozenset[str]] = []

    def try_it() -> bool:
        tried.append(held())
        if not enough <= held():
            raise KernelError("not permitted")
        return True

    assert needed(try_it) == found
    assert tried[0] == NONE
    assert held() == ALL


def test_needed_returns_all_if_nothing_suffices_or_a_try_takes_too_long() -> None:
    assert needed(lambda: False) == ALL
    hanging, start = threading.Event(), time.monotonic()
    assert needed(lambda: hanging.wait(60), timeout_s=0.2) == ALL
    assert time.monotonic() - start < 5
    hanging.set()


def test_a_harvest_by_nobody_is_exact_with_only_the_needed_capabilities(probe: LoadedProbe) -> None:
    def work() -> object:
        switch_user("nobody", ALL)
        keep = needed(lambda: bool(harvest(probe)) or True)
        drop(keep)
        assert held_by_any_thread() == keep
        return [sorted(keep), harvest_of_opened_files(probe)]

    keep, opened = in_child(work)
    assert opened == OPENED
    assert set(keep) <= {"bpf", "dac_read_search"}


def test_a_harvest_in_a_thread_is_exact_with_only_the_needed_capabilities(probe: LoadedProbe) -> None:
    keep = needed(lambda: bool(harvest(probe)) or True)
    counted = []

    def work() -> None:
        drop(keep)
        counted.append(harvest_of_opened_files(probe))

    in_thread(work)
    assert counted == [OPENED]


def test_a_harvest_by_nobody_is_exact_in_load_mode_return_too() -> None:
    options = LoadOptions(mode=LoadMode.RETURN)
    with attach.load(registry.discover().probes["process"], Libbpf(), features.detect(), options) as probe:

        def work() -> object:
            switch_user("nobody", ALL)
            drop(needed(lambda: bool(harvest(probe)) or True))
            return harvest_of_opened_files(probe)

        assert in_child(work) == OPENED


@pytest.mark.parametrize("probe", [*registry.discover().probes.values(), execs.PROBE], ids=lambda probe: probe.name)
def test_bpf_and_perfmon_suffice_to_load_a_probe(probe: Probe) -> None:
    """libbpf 1.1 also needs CAP_SYS_ADMIN if a type or function is missing in the BTF of the kernel itself."""

    remove_memlock_limit()

    def work() -> None:
        drop(frozenset({"bpf", "perfmon"}))
        attach.load(probe, Libbpf(), features.detect(), LoadOptions(mode=LoadMode.RETURN)).close()

    in_thread(work)
