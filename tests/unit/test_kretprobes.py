"""kretprobes through tracefs, with a plain directory as tracefs."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import cast

import pytest

from ebpfmon.errors import AttachError, KernelError
from ebpfmon.kernel import kprobe_events, kretprobes
from ebpfmon.kernel.kretprobes import Kretprobes
from ebpfmon.kernel.libbpf import PERF_TRACEPOINT, Libbpf

PID = os.getpid()
GROUP = f"ebpfmon_{PID}"
OTHERS = "p:kprobes/p_vfs_read vfs_read\nr64:ebpfmon_1/vfs_read_1_0 vfs_read\n"


class FakeTracefs:
    """A directory that reacts to commands like tracefs. `refuse` has the errors for functions, by name."""

    def __init__(self, root: Path) -> None:
        self.root, self.refuse = root, dict[str, int]()
        self.file = root / "kprobe_events"
        self.file.write_text(OTHERS)
        (root / "kprobe_profile").touch()

    def write(self, tracefs: Path, command: str) -> None:
        assert tracefs == self.root
        if command.startswith("-:"):
            lines = self.file.read_text().splitlines(keepends=True)
            self.file.write_text("".join(line for line in lines if f":{command[2:]} " not in line))
            return
        name, _, function = command.partition(":")[2].partition(" ")
        if code := self.refuse.get(function):
            raise OSError(code, os.strerror(code))
        if f":{name} " in self.file.read_text():
            raise FileExistsError(errno.EEXIST, "File exists")
        self.file.write_text(f"{self.file.read_text()}{command}\n")
        events = self.root / "events" / name
        events.mkdir(parents=True, exist_ok=True)
        (events / "id").write_text(f"{len(self.lines) + 1000}\n")

    @property
    def lines(self) -> list[str]:
        """The lines of kprobe_events that the test has added."""
        return self.file.read_text().removeprefix(OTHERS).splitlines()


class FakeLibbpf:
    """A libbpf that opens pipes as perf events, and records what is opened and run."""

    def __init__(self) -> None:
        self.opened: list[tuple[int, int]] = []
        self.ran: list[int] = []
        self.fds: list[int] = []

    def open_perf_event(self, kind: int, config: int) -> int:
        self.opened.append((kind, config))
        self.fds.append(os.open(os.devnull, os.O_RDONLY))
        return self.fds[-1]

    def attach_to_event(self, event_fd: int, program_fd: int) -> None:
        assert event_fd == self.fds[-1]
        self.ran.append(program_fd)

    def is_open(self, n: int) -> bool:
        try:
            os.fstat(self.fds[n])
        except OSError:
            return False
        return True


@pytest.fixture
def tracefs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTracefs:
    fake = FakeTracefs(tmp_path)
    monkeypatch.setattr(kprobe_events, "write", fake.write)
    return fake


def kretprobes_in(tracefs: FakeTracefs, libbpf: FakeLibbpf | None = None) -> Kretprobes:
    return Kretprobes(cast(Libbpf, libbpf or FakeLibbpf()), str(tracefs.root), maxactive=64)


def test_a_kretprobe_is_an_event_of_tracefs_with_maxactive_that_runs_the_program(tracefs: FakeTracefs) -> None:
    libbpf = FakeLibbpf()
    with kretprobes_in(tracefs, libbpf) as made:
        made.attach("vfs_read", 33)
        made.attach("vfs_write", 34)
        assert tracefs.lines == [f"r64:{GROUP}/{f}_{PID}_0 {f}" for f in ("vfs_read", "vfs_write")]
        assert (libbpf.opened, libbpf.ran) == ([(PERF_TRACEPOINT, 1001), (PERF_TRACEPOINT, 1002)], [33, 34])
        assert kprobe_events.in_use(kprobe_events.entries(tracefs.root)[-1]) is False
    assert tracefs.lines == []
    assert tracefs.file.read_text() == OTHERS, "the entries of others stay"
    assert not libbpf.is_open(0)
    assert not libbpf.is_open(1)


def test_without_kretprobes_tracefs_is_unchanged_and_no_cleaner_runs(
    tracefs: FakeTracefs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with kretprobes_in(tracefs) as made:
        assert made.missed() == 0
    assert tracefs.lines == []


def test_closing_twice_is_harmless(tracefs: FakeTracefs) -> None:
    made = kretprobes_in(tracefs)
    made.attach("vfs_read", 33)
    made.close()
    made.close()
    assert tracefs.lines == []


def test_two_objects_of_one_process_have_their_own_kretprobes(tracefs: FakeTracefs) -> None:
    with kretprobes_in(tracefs) as first, kretprobes_in(tracefs) as second:
        first.attach("vfs_read", 33)
        second.attach("vfs_read", 34)
        assert tracefs.lines == [f"r64:{GROUP}/vfs_read_{PID}_{n} vfs_read" for n in (0, 1)]
        first.close()
        assert tracefs.lines == [f"r64:{GROUP}/vfs_read_{PID}_1 vfs_read"]


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EPERM, errno.EEXIST])
def test_a_refusal_is_reported_with_the_function_and_the_error(tracefs: FakeTracefs, code: int) -> None:
    tracefs.refuse["no_such"] = code
    with kretprobes_in(tracefs) as made:
        with pytest.raises(AttachError) as caught:
            made.attach("no_such", 33)
        assert str(caught.value) == f"cannot attach a kretprobe to 'no_such': {os.strerror(code)}"
        assert caught.value.errno == code


def test_an_event_that_cannot_be_opened_is_removed(tracefs: FakeTracefs) -> None:
    class Refusing(FakeLibbpf):
        def open_perf_event(self, kind: int, config: int) -> int:
            raise OSError(errno.EACCES, "Permission denied")

    with kretprobes_in(tracefs, Refusing()) as made:
        with pytest.raises(AttachError, match="Permission denied"):
            made.attach("vfs_read", 33)
        assert len(tracefs.lines) == 1
    assert tracefs.lines == []


def test_only_missed_returns_of_own_events_are_counted(tracefs: FakeTracefs) -> None:
    with kretprobes_in(tracefs) as made:
        made.attach("vfs_read", 33)
        made.attach("vfs_write", 33)
        hits = {f"vfs_read_{PID}_0": (7000, 13), f"vfs_write_{PID}_0": (7, 4), "vfs_read_1_0": (1, 1), "p_x": (1, 9)}
        profile = "".join(f"  {name:44} {hit:15} {missed:15}\n" for name, (hit, missed) in hits.items())
        (tracefs.root / "kprobe_profile").write_text(profile)
        assert made.missed() == 17


def test_missed_returns_are_read_again_and_again_without_opening_a_file(
    tracefs: FakeTracefs,
) -> None:
    with kretprobes_in(tracefs) as made:
        made.attach("vfs_read", 33)
        profile = tracefs.root / "kprobe_profile"
        for missed in (0, 13, 1300, 13000):
            profile.write_text(f"  vfs_read_{PID}_0 7000 {missed}\n")
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                assert made.missed() == missed
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.EAGAIN, "raise the limit of its cgroup (pids.max"), (errno.ENOMEM, "free some memory"), (errno.ENOENT, "")],
)
def test_a_kretprobe_that_cannot_be_cleaned_up_is_not_attached_and_the_error_says_what_is_short(
    tracefs: FakeTracefs, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    def cannot_start(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(subprocess, "Popen", cannot_start)
    with kretprobes_in(tracefs) as made:
        with pytest.raises(KernelError) as caught:
            made.attach("vfs_read", 33)
        text = f"cannot attach a kretprobe to 'vfs_read': cannot start /bin/sh: {os.strerror(code)}"
        assert str(caught.value).startswith(f"{text}; {remedy}" if remedy else text)
    assert tracefs.lines == []


def test_only_the_events_of_a_killed_process_are_removed(tracefs: FakeTracefs) -> None:
    left = [f"r64:{GROUP}/vfs_read_{PID}_0 vfs_read\n", f"r4096:{GROUP}/vfs_write_{PID}_0 vfs_write\n"]
    tracefs.file.write_text(OTHERS + "".join(left))
    command = ["/bin/sh", "-c", kretprobes._CLEAN_UP, GROUP, str(tracefs.file)]
    cleaner = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert cleaner.stdin
    assert cleaner.poll() is None, "it waits for the end of the process"
    cleaner.stdin.close()
    removals = [f"-:{GROUP}/vfs_read_{PID}_0", f"-:{GROUP}/vfs_write_{PID}_0"]
    until = time.monotonic() + 10
    while tracefs.lines[2:4] != removals:  # In a plain file, each removal adds a line.
        assert time.monotonic() < until
        time.sleep(0.01)
    assert all(line.startswith((f"r64:{GROUP}", f"r4096:{GROUP}", f"-:{GROUP}/")) for line in tracefs.lines)
    tracefs.file.write_text(OTHERS)  # This is what the kernel leaves after the removals.
    assert cleaner.wait(10) == 0
