"""`ebpfmon check` and `ebpfmon reset`, as a user starts them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

from ebpfmon.check.report import Report, render
from ebpfmon.kernel import features
from tests.kernel.support import DEFAULTS, EBPFMON

WITHOUT_ROOT = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
DOCUMENTED = [
    "kernel", "BTF", "kernel config", "tracefs", "debugfs", "kprobes", "preemption", "lockdown", "capabilities",
    "processes", "users", "cgroups", "memlock", "unprivileged BPF", "JIT", "SELinux", "libbpf", "bcc", "kernel headers",
]  # fmt: skip


@cache  # Slow in a virtual machine.
def check(*arguments: str, before: tuple[str, ...] = ()) -> tuple[Report, list[str]]:
    """Return the verdict, and its text as lines. Assert that both runs exit with its status and leave stderr empty."""
    runs = [
        subprocess.run(
            [*before, *EBPFMON, "check", *DEFAULTS, *more, *arguments], capture_output=True, text=True, check=False
        )
        for more in (["--json"], [])
    ]
    verdict = msgspec.json.decode(runs[0].stdout, type=Report)
    assert [(run.returncode, run.stderr) for run in runs] == [(verdict.status, "")] * 2
    return verdict, runs[1].stdout.splitlines()


@pytest.mark.parametrize("arguments", [[], ["--attach", "kprobe"]], ids=" ".join)
def test_the_text_and_the_json_agree(arguments: list[str]) -> None:
    verdict, text = check(*arguments)
    assert list(render(verdict)) == text
    assert not [line for line in text if len(line) > 100]


def test_every_documented_finding_is_there() -> None:
    verdict, text = check()
    assert [finding.about for finding in verdict.findings] == DOCUMENTED
    assert [line for line in DOCUMENTED if not any(t.startswith(f"{line}  ") for t in text)] == []
    assert verdict.kernel == features.detect()
    release, version = (subprocess.check_output(["uname", what], text=True).strip() for what in ("-r", "-v"))
    assert (verdict.kernel.release, verdict.kernel.version) == (release, version)
    assert re.fullmatch(r"\d+\.\d+", verdict.libbpf or "")
    assert verdict.host.config.path or "not found in /proc/config.gz" in "\n".join(text)
    soft = subprocess.check_output("ulimit -l", shell=True, text=True).strip()
    limit = verdict.host.memlock_bytes
    assert soft == ("unlimited" if limit is None else str(limit // 1024))


def test_the_status_tells_whether_all_events_can_be_attached() -> None:
    verdict, text = check()
    assert verdict.status == 0
    assert re.fullmatch(r"result +(\d+) of \1 events can be attached", text[0])
    forced, text = check("--attach", "kprobe")
    # Only a tracepoint sees the requests of io_uring.
    assert forced.status == (1 if features.detect().kprobes else 2)
    assert ("no event can be attached" in text[0]) is (forced.status == 2)


def test_without_root_the_verdict_is_complete_and_tells_what_is_missing() -> None:
    verdict, text = check(before=WITHOUT_ROOT)
    assert verdict.status == 2
    assert [finding.about for finding in verdict.findings] == DOCUMENTED
    assert text[0].split(maxsplit=1) == ["result", "no event can be attached"]
    assert text[1].startswith(f"{'error':24}cannot load BPF programs: not permitted")
    for name in ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"):
        assert f"-> {name} is missing: " in "\n".join(text)


class Kprobes:
    """The kernel's `kprobe_events`."""

    def __init__(self, tracefs: Path) -> None:
        self.tracefs = tracefs
        self.path = tracefs / "kprobe_events"

    def write(self, line: str) -> None:
        # open(self.path, "a") does not work, because Python then seeks, which this file refuses.
        subprocess.run(f"echo {line} >> {self.path}", shell=True, check=True)

    def names(self) -> set[str]:
        """Return GROUP/EVENT of all kprobes in the file."""
        return {line.split()[0].partition(":")[2] for line in self.path.read_text().splitlines()}

    def enable(self, name: str, on: bool) -> None:
        (self.tracefs / "events" / name / "enable").write_text("01"[on])


@pytest.fixture
def kprobes() -> Iterator[Kprobes]:
    """The kernel's kprobe_events, with a kprobe of another program. At the end, all that the test made is removed."""
    found = features.detect()
    if not found.kprobes:
        pytest.skip("this kernel has no kprobe_events")
    mount = Path(found.tracefs or "/sys/kernel/tracing")
    if not found.tracefs:
        subprocess.run(["mount", "-t", "tracefs", "tracefs", mount], check=True)
    kprobes = Kprobes(mount)
    before = kprobes.names()
    kprobes.write("p:kprobes/foreign_vfs_read vfs_read")
    try:
        yield kprobes
    finally:
        assert "kprobes/foreign_vfs_read" in kprobes.names()
        for name in kprobes.names() - before:
            kprobes.enable(name, on=False)
            kprobes.write(f"-:{name}")
        assert kprobes.names() == before
        if not found.tracefs:
            subprocess.run(["umount", mount], check=True)


@pytest.fixture
def ended_pid() -> int:
    """The PID of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def reset(*arguments: str) -> tuple[int, list[str], str]:
    done = subprocess.run([*EBPFMON, "reset", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_reset_removes_only_kprobes_of_ended_ebpfmons_and_of_netdata(kprobes: Kprobes, ended_pid: int) -> None:
    before = kprobes.names()
    left = ["kprobes/p_netdata_vfs_read_1234 (vfs_read)", "kprobes/r_netdata_vfs_write_7 (vfs_write)",
            f"ebpfmon_{ended_pid}/vfs_unlink (vfs_unlink)"]  # fmt: skip
    alive = f"ebpfmon_{os.getpid()}/vfs_read"
    kprobes.write("p:kprobes/p_netdata_vfs_read_1234 vfs_read")
    kprobes.write("r:kprobes/r_netdata_vfs_write_7 vfs_write")
    kprobes.write(f"r64:ebpfmon_{ended_pid}/vfs_unlink vfs_unlink")
    kprobes.write(f"p:{alive} vfs_read")
    all_of_them = kprobes.names()
    shown = [*(f"left behind: {entry}" for entry in left), f"in use by ebpfmon {os.getpid()}: {alive} (vfs_read)"]
    assert reset("--dry-run") == (0, shown, "")
    assert kprobes.names() == all_of_them
    assert reset() == (0, [*shown, *(f"removed {entry}" for entry in left)], "")
    assert kprobes.names() == {*before, alive}
    kprobes.write(f"-:{alive}")
    assert reset() == (0, ["no kprobes were left behind"], "")


def test_reset_continues_after_a_kprobe_in_use_and_exits_with_1(kprobes: Kprobes, ended_pid: int) -> None:
    busy = "kprobes/p_netdata_vfs_read_1"
    kprobes.write(f"p:{busy} vfs_read")
    kprobes.write(f"p:ebpfmon_{ended_pid}/vfs_write vfs_write")
    kprobes.enable(busy, on=True)
    status, out, err = reset()
    assert (status, out[2:]) == (1, [f"removed ebpfmon_{ended_pid}/vfs_write (vfs_write)"])
    assert err == f"ebpfmon: cannot remove '{busy}' from '{kprobes.path}': it is in use\n"
    kprobes.enable(busy, on=False)
    assert reset() == (0, [f"left behind: {busy} (vfs_read)", f"removed {busy} (vfs_read)"], "")


def test_reset_tells_if_the_kernel_has_no_kprobes() -> None:
    none = (0, ["this kernel has no kprobes: nothing to remove"], "")
    assert (reset() == none) is not features.detect().kprobes
