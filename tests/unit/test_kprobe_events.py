"""Leftover kprobes are listed, classified and removed, with a plain file as `kprobe_events`."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ebpfmon.cli import main as cli
from ebpfmon.errors import KernelError
from ebpfmon.kernel import features
from ebpfmon.kernel.kprobe_events import Entry, entries, has_known_creator, in_use, remove
from tests.unit.test_features import FULL

DEAD = 4_194_305  # beyond PID_MAX_LIMIT
KPROBES = f"""\
p:kprobes/p_netdata_vfs_read_1234 vfs_read
r64:ebpfmon_{DEAD}/vfs_read vfs_read
r:kprobes/r_netdata_do_sys_open_7 do_sys_open+0x0 ret=$retval
p:kprobes/netdata_like ext4:ext4_sync_file
p:ebpfmon_{os.getppid()}/vfs_write vfs_write
p:ebpfmon_{os.getpid()}/vfs_write vfs_write
p:my_ebpfmon_{DEAD}/vfs_write vfs_write
p:ebpfmon_{DEAD}x/vfs_write vfs_write

something that this kernel does not write yet
"""
LEFT = [
    Entry("kprobes", "p_netdata_vfs_read_1234", "vfs_read"),
    Entry(f"ebpfmon_{DEAD}", "vfs_read", "vfs_read"),
    Entry("kprobes", "r_netdata_do_sys_open_7", "do_sys_open+0x0"),
    Entry(f"ebpfmon_{os.getpid()}", "vfs_write", "vfs_write"),  # left by a process that had our pid
]


@pytest.fixture
def tracefs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kprobe_events").write_text(KPROBES)
    monkeypatch.setattr(features, "detect", lambda: replace(FULL, tracefs=str(tmp_path)))
    return tmp_path


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel whose answer to each write depends on the command."""
    answers = {b"-:kprobes/p_netdata": errno.EBUSY, f"-:ebpfmon_{DEAD}".encode(): errno.ENOENT}
    real = os.write

    def write(file: int, data: bytes) -> int:
        for start, answer in answers.items():
            if data.startswith(start):
                raise OSError(answer, os.strerror(answer))
        return real(file, data)

    monkeypatch.setattr(os, "write", write)


def test_the_entries_of_all_programs_are_listed(tracefs: Path) -> None:
    found = entries(tracefs)
    assert len(found) == 8
    assert found[2] == LEFT[2]
    assert found[3] == Entry("kprobes", "netdata_like", "ext4:ext4_sync_file")
    assert str(found[1]) == f"ebpfmon_{DEAD}/vfs_read (vfs_read)"


def test_entries_of_ebpfmon_and_netdata_are_recognized_and_those_of_a_running_ebpfmon_are_in_use(tracefs: Path) -> None:
    found = [entry for entry in entries(tracefs) if has_known_creator(entry)]
    assert [entry for entry in found if not in_use(entry)] == LEFT
    assert [entry.owner for entry in found if in_use(entry)] == [os.getppid()]


def test_without_kprobe_events_there_are_no_entries(tmp_path: Path) -> None:
    assert entries(tmp_path) == []


def test_a_file_that_may_not_be_read_is_an_error(tracefs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(KernelError) as caught:
        entries(tracefs)
    assert str(caught.value) == f"cannot read '{tracefs}/kprobe_events': Permission denied; run as root (sudo)"


def test_a_removal_is_appended_to_the_file(tracefs: Path) -> None:
    remove(tracefs, LEFT[0])
    assert (tracefs / "kprobe_events").read_text() == KPROBES + "-:kprobes/p_netdata_vfs_read_1234\n"


@pytest.mark.usefixtures("busy")
def test_removing_an_entry_is_an_error_if_it_is_in_use_but_not_if_it_is_gone(tracefs: Path) -> None:
    remove(tracefs, LEFT[1])
    with pytest.raises(KernelError, match=r"^cannot remove 'kprobes/p_netdata_vfs_read_1234' from '.*': it is in use$"):
        remove(tracefs, LEFT[0])


SHOWN = [
    *(f"left behind: {entry}" for entry in LEFT[:3]),
    f"in use by ebpfmon {os.getppid()}: ebpfmon_{os.getppid()}/vfs_write (vfs_write)",
    f"left behind: {LEFT[3]}",
]


def test_reset_lists_and_removes_leftover_entries(tracefs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reset"]) == 0
    assert capsys.readouterr().out.splitlines() == [*SHOWN, *(f"removed {entry}" for entry in LEFT)]
    written = (tracefs / "kprobe_events").read_text().removeprefix(KPROBES)
    assert written == "".join(f"-:{entry.group}/{entry.event}\n" for entry in LEFT)


def test_a_dry_run_of_reset_removes_nothing(tracefs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reset", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == SHOWN
    assert (tracefs / "kprobe_events").read_text() == KPROBES


@pytest.mark.usefixtures("busy")
def test_reset_continues_after_a_failure_and_ends_with_1(tracefs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reset"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [*SHOWN, *(f"removed {entry}" for entry in LEFT[1:])]
    path = f"{tracefs}/kprobe_events"
    assert err == f"ebpfmon: cannot remove 'kprobes/p_netdata_vfs_read_1234' from '{path}': it is in use\n"


@pytest.mark.parametrize(
    ("kprobes", "mounted", "status", "message"),
    [
        (True, True, 0, "no kprobes were left behind"),
        (False, True, 0, "this kernel has no kprobes: nothing to remove"),
        (False, False, 0, "this kernel has no kprobes: nothing to remove"),
        (True, False, 1, "ebpfmon: cannot look for kprobes: tracefs is not mounted; "
                         "run mount -t tracefs tracefs /sys/kernel/tracing"),
    ],
)  # fmt: skip
def test_reset_reports_in_one_line_that_nothing_is_left_or_that_it_cannot_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    kprobes: bool, mounted: bool, status: int, message: str,
) -> None:  # fmt: skip
    found = replace(FULL, kprobes=kprobes, tracefs=str(tmp_path) if mounted else None)
    monkeypatch.setattr(features, "detect", lambda: found)
    assert cli.main(["reset"]) == status
    assert "".join(capsys.readouterr()) == f"{message}\n"
