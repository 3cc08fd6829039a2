"""What this process does not see of what the kernel's numbers refer to, with /proc in a temporary directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebpfmon.kernel import views
from ebpfmon.kernel.views import Views, detect
from tests.unit.test_features import make

MOUNTS = "proc {0} proc rw{1} 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"
ALL, NO_PTRACE = "CapEff:\t000001ffffffffff\n", "CapEff:\t0000000000000000\n"
STATUS = "proc__thread-self__status"
KTHREADD, INIT = "2 (kthreadd) S 0 0 0 0 -1 2129984 0", "2 (bash) S 1 2 2 0 -1 4194304 0"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine on which everything is visible."""
    make(
        tmp_path, **{STATUS: ALL}, proc__self__stat="", proc__self__mounts=MOUNTS.format("/proc", ""),
        proc__2__stat=KTHREADD, etc__passwd="",
    )  # fmt: skip
    for kind in ("pid", "user", "time"):
        make(tmp_path, **{f"proc__self__ns__{kind}": ""})
        monkeypatch.setitem(views._INITIAL, kind, (tmp_path / "proc/self/ns" / kind).stat().st_ino)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    monkeypatch.setattr(views, "_ROOT_CGROUP", (tmp_path / "sys/fs/cgroup").stat().st_ino)
    (tmp_path / "proc/1").mkdir()
    (tmp_path / "proc/1/root").symlink_to(tmp_path)
    return tmp_path


def leave(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Make this process one of another namespace than the initial one."""
    monkeypatch.setitem(views._INITIAL, kind, 0)


def test_on_the_host_nothing_is_wrong(host: Path) -> None:
    assert detect(host) == Views()


def test_a_kernel_without_namespaces_has_no_others(host: Path) -> None:
    for kind in ("pid", "user", "time"):
        (host / "proc/self/ns" / kind).unlink()
    assert detect(host) == Views()


def test_proc_of_another_pid_namespace_is_found(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, "pid")
    assert detect(host) == Views(), "the kernel's threads are in the initial namespace only"
    make(host, proc__2__stat=INIT)
    assert str(detect(host).processes) == (
        "/proc belongs to a PID namespace other than the host's, so processes that are older than ebpfmon are known by "
        "their names alone; use the host's (--pid=host)"
    )
    (host / "proc/2/stat").unlink()
    assert detect(host).processes


def test_a_missing_proc_is_found(host: Path) -> None:
    (host / "proc/self/stat").unlink()
    found = detect(host)
    assert found.processes
    assert found.processes.what == "/proc is not mounted, or for another PID namespace"


@pytest.mark.parametrize("option", ["hidepid=1", "hidepid=2", "hidepid=invisible", "hidepid=ptraceable"])
def test_hidden_processes_are_found_unless_this_process_may_see_them(host: Path, option: str) -> None:
    make(host, proc__self__mounts=MOUNTS.format("/proc", f",{option}"))
    assert detect(host) == Views()
    make(host, **{STATUS: NO_PTRACE})
    found = detect(host)
    assert found.hidden
    assert found.hidden.what == f"/proc is mounted with {option}"


@pytest.mark.parametrize(
    ("directory", "option"), [("/proc", ",hidepid=0"), ("/proc", ",hidepid=off"), ("/x", ",hidepid=2")]
)
def test_only_the_option_of_proc_hides_processes(host: Path, directory: str, option: str) -> None:
    make(host, proc__self__mounts=MOUNTS.format(directory, option), **{STATUS: NO_PTRACE})
    assert detect(host) == Views()


@pytest.mark.parametrize(("offsets", "is_shifted"), [("0         0", False), ("1000      0", True), ("-5  7", True)])
def test_a_shifted_boot_time_is_found(
    host: Path, monkeypatch: pytest.MonkeyPatch, offsets: str, is_shifted: bool
) -> None:
    make(host, proc__self__timens_offsets=f"monotonic   3   0\nboottime   {offsets}\n")
    assert detect(host) == Views(), "the offsets are those of children"
    leave(monkeypatch, "time")
    assert bool(detect(host).processes) is is_shifted


def test_uids_of_a_user_namespace_are_found(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, "user")
    found = detect(host)
    assert found.users
    assert found.users.what == "uids here are those of a user namespace"


def test_another_user_database_than_that_of_process_1_is_found(host: Path) -> None:
    (host / "proc/1/root").unlink()
    assert detect(host) == Views(), "it is unknown"
    make(host, proc__1__root__etc__passwd="")
    found = detect(host)
    assert found.users
    assert found.users.what == "/etc/passwd is not that of process 1"


def test_a_part_of_the_cgroups_is_found(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_ROOT_CGROUP", 0)
    found = detect(host)
    assert found.cgroups
    assert found.cgroups.what == "/sys/fs/cgroup shows a part of the cgroups"
    make(host, proc__self__mounts="")
    found = detect(host)
    assert found.cgroups
    assert found.cgroups.what == "cgroup version 2 is not mounted"
