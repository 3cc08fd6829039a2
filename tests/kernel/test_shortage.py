"""A start for which descriptors, memory or threads are short says in one line what is short and how to raise it."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.support import DEFAULTS, EBPFMON

RUN, TOP, CHECK = ["run", "--for", "1", *DEFAULTS], ["top", "--once", *DEFAULTS], ["check", *DEFAULTS]
_ONLY = "; this process may open only {} files: allow 256 "
_FILES = r"it needs \d+ open files, and only \d+ more are allowed" + _ONLY


def ended(arguments: list[str], before: Callable[[], object]) -> tuple[int, list[str], str]:
    """Return the status, the messages and the output of a command. The child process calls `before` first."""
    done = subprocess.run(
        [*EBPFMON, *arguments], preexec_fn=before, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr.splitlines(), done.stdout


def limit(what: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (value, value))


@pytest.mark.parametrize("command", [RUN, TOP], ids=["run", "top"])
@pytest.mark.parametrize("files", [5, 6, 7, 8, 10, 12, 16, 24, 32])
def test_a_start_without_enough_descriptors_says_how_many_to_allow(command: list[str], files: int) -> None:
    status, messages, _ = ended(command, limit(resource.RLIMIT_NOFILE, files))
    assert status == 1
    # libbpf 1.5 needs a descriptor for each map before it can be asked how many an object needs.
    assert re.search(_ONLY.format(files), messages[-1]), messages
    assert len(messages) == 1


def test_check_reports_that_descriptors_are_short() -> None:
    status, messages, out = ended(CHECK, limit(resource.RLIMIT_NOFILE, 32))
    assert (status, messages) == (1, [])
    assert re.search(_FILES.format(32), " ".join(out.split()))


@pytest.mark.parametrize("files", [48, 64, 96, 256])
def test_what_does_not_fit_into_the_descriptors_is_left_out_with_the_reason(files: int) -> None:
    status, messages, out = ended(RUN, limit(resource.RLIMIT_NOFILE, files))
    left_out = [line for line in messages if "left out" in line]
    assert not [line for line in messages if "Traceback" in line]
    if files == 256:
        assert left_out == []
    assert all(re.search(_FILES.format(files), line) for line in left_out), left_out
    assert (status == 0) is ("calls/s" in out)


def test_a_soft_limit_of_descriptors_does_not_matter() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 256:
        pytest.skip("the hard limit of open files is too low, too")
    status, messages, _ = ended(RUN, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (16, hard)))
    assert (status, [line for line in messages if "left out" in line]) == (0, [])


@pytest.mark.parametrize("megabytes", [30, 60, 110, 120, 130, 150])
def test_a_start_without_enough_memory_says_so_or_works(megabytes: int) -> None:
    status, messages, out = ended(RUN, limit(resource.RLIMIT_AS, megabytes << 20))
    assert not [line for line in messages if "Traceback" in line], messages
    if status:  # 2 if the plugins of all sinks had to be left out
        assert (status in (1, 2), out) == (True, "")
        assert [line for line in messages if re.search(r"address space|[Mm]emory", line)], messages


@pytest.fixture
def pids() -> Iterator[Path]:
    """A cgroup that can limit the number of its threads."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    tops = [Path(m[1]) for m in mounts if (m[2] == "cgroup" and "pids" in m[3].split(",")) or m[2] == "cgroup2"]
    for top in tops:
        own = top / f"ebpfmon-test-{os.getpid()}"
        try:
            own.mkdir()
        except OSError:
            continue
        try:
            if (own / "pids.max").exists():
                yield own
                return
        finally:
            own.rmdir()
    pytest.skip("cannot make a cgroup with a limit of processes here")


@pytest.mark.parametrize("command", [RUN, TOP], ids=["run", "top"])
def test_a_start_without_enough_threads_names_the_limits_of_threads(pids: Path, command: list[str]) -> None:
    (pids / "pids.max").write_text("1")
    status, messages, out = ended(command, lambda: (pids / "cgroup.procs").write_text(str(os.getpid())))
    assert (status, out) == (1, "")
    assert messages[-1].endswith(
        "cannot start a thread; raise the limit of its cgroup (pids.max; in a systemd unit: TasksMax=) or ulimit -u"
    )
    assert not [line for line in messages if "Traceback" in line]
