"""Lookups that never return: other processes keep their names, and the daemon ends when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ebpfmon.threads import MAX_ABANDONED
from tests.kernel.hung_files import HungFiles, HungProcess, hung_files
from tests.kernel.support import DEFAULTS, EBPFMON, Monitor, require_namespaces, until
from tests.kernel.test_applications import charted, exits, monitor, rows_of, running

WORK = "while read line && [ $line = wait ]; do :; done; for i in $(seq 101); do /bin/true; done; read stay"
BUSY = "while read line; do /bin/true; done"


@pytest.fixture
def files(tmp_path: Path) -> Iterator[HungFiles]:
    (tmp_path / "hung").mkdir()
    with hung_files(tmp_path / "hung") as files:
        yield files


GROUPS = "hung: *hung-for-ever*\nolder: *older-than-ebpfmon*\n"
CANNOT = "cannot look up the command line of process "


def tell(process: subprocess.Popen[bytes], line: bytes) -> bool:
    """Write a line to a process's standard input."""
    assert process.stdin
    process.stdin.write(line + b"\n")
    process.stdin.flush()
    return True


def until_said(watching: Monitor, caplog: pytest.LogCaptureFixture, text: str, busy: Sequence[HungProcess]) -> None:
    """Wait until a message has been logged, while the children of these processes work."""

    def is_said() -> bool:
        for process in busy:
            process.tell(b"go")
        return text in caplog.text

    watching.until(is_said)


def test_a_process_whose_command_line_cannot_be_read_holds_up_no_other(
    files: HungFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hung = files.start(BUSY, "hung-for-ever")
    with (
        running("sh", "-c", WORK, "older-than-ebpfmon") as older,
        monitor(tmp_path, GROUPS, by=["application", "user"]) as watching,
    ):
        until_said(watching, caplog, f"{CANNOT}{hung.tgid} ", [hung])
        watching.until(lambda: tell(older, b"wait") and len(rows_of(watching, "older", "application")) > 0)
        tell(older, b"go")
        watching.until(lambda: exits(watching, "older") >= 102)
        assert exits(watching, "older") == 102
        assert charted(watching.snapshots, "users.vfs_read_call")["root"], "users are found as well"
        assert caplog.text.count(CANNOT) == 1
        assert not exits(watching, "hung")
        files.answer()
        for _ in range(53):
            hung.tell(b"go")
        watching.until(lambda: exits(watching, "hung") >= 53)


def test_many_processes_whose_command_lines_cannot_be_read_hold_up_no_other_kind_of_lookup(
    files: HungFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hung = [files.start(BUSY, "hung-for-ever") for _ in range(MAX_ABANDONED + 3)]
    with monitor(tmp_path, GROUPS, by=["application", "user"]) as watching:
        until_said(watching, caplog, "cannot look up any further command line until", hung)
        with running("sh", "-c", WORK, "older-than-ebpfmon") as newer:
            tell(newer, b"go")
            watching.until(lambda: exits(watching, "older") >= 102)
        assert exits(watching, "older") == 102, "execve(2) tells the command lines of newer processes"
        assert charted(watching.snapshots, "users.vfs_read_call")["root"], "users are found as well"
        assert caplog.text.count(CANNOT) == MAX_ABANDONED + 1
        files.answer()
        for process in hung:
            for _ in range(53):
                process.tell(b"go")
        watching.until(lambda: exits(watching, "hung") >= 53)


@contextmanager
def daemon(tmp_path: Path, *command: str | Path) -> Iterator[Path]:
    """Run a daemon as a process, and yield the file that has its output. Afterwards, SIGTERM must end it."""
    output = tmp_path / "output"
    with output.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield output
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0, output.read_text()
        finally:
            process.kill()


def test_a_process_whose_command_line_cannot_be_read_keeps_the_daemon_from_nothing(
    files: HungFiles, tmp_path: Path
) -> None:
    hung = files.start(BUSY)

    def is_said() -> bool:
        hung.tell(b"go")
        return f"{CANNOT}{hung.tgid} " in output.read_text()

    with daemon(tmp_path, *EBPFMON, "run", *DEFAULTS) as output:
        until(is_said)


def test_a_user_database_that_does_not_answer_holds_up_nothing(tmp_path: Path) -> None:
    """The user database is a FIFO in a mount namespace: reading it waits for a writer."""
    os.mkfifo(tmp_path / "fifo")
    require_namespaces()
    command = 'mount --bind "$0" /etc/passwd && exec "$@"'
    in_namespace = ["unshare", "--mount", "sh", "-c", command, str(tmp_path / "fifo")]
    (tmp_path / "settings").write_text('[groups]\nby = ["user", "application"]\n')
    with daemon(tmp_path, *in_namespace, *EBPFMON, "run", "--config", tmp_path / "settings", "--json") as output:
        until(lambda: "cannot look up the name of user 0: no answer within 1 s" in output.read_text())
        until(lambda: '"user":"0"' in output.read_text())


_RESOLVE = """
import asyncio
from ebpfmon_network_viewer.resolver import Resolver

async def main():
    resolver = Resolver(nameservers=["127.0.0.9"])
    for n in range(100):
        assert resolver.name(f"10.0.0.{n}") is None
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


@pytest.mark.parametrize("file", ["/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf"])
def test_a_file_of_the_name_service_that_does_not_answer_holds_up_nothing(tmp_path: Path, file: str) -> None:
    """The file is a FIFO in a mount namespace: reading it waits for a writer."""
    pytest.importorskip("aiodns")
    if not Path(file).exists():
        pytest.skip(f"this system has no {file}")
    os.mkfifo(tmp_path / "fifo")
    require_namespaces()
    mounting = 'mount --bind "$0" "$1" && shift && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounting, str(tmp_path / "fifo"), file, sys.executable, "-c", _RESOLVE]
    subprocess.run(command, check=True, timeout=30)


READS_IN_ITS_MAIN_THREAD = """
import sys
from ebpfmon.cli.stopping import SignalThread
with SignalThread(lambda: print("stopped", flush=True), None):
    file = open(sys.argv[1], "rb", buffering=0)
    print("reads", flush=True)
    file.read(1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_received_while_the_main_thread_waits_for_a_file_server(
    number: signal.Signals, files: HungFiles, tmp_path: Path
) -> None:
    """The kernel gives the signal to the main thread, which cannot take it."""
    command = [sys.executable, "-c", READS_IN_ITS_MAIN_THREAD, str(tmp_path / "hung" / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"reads\n"
            files.wait_for_read()
            process.send_signal(number)
            assert process.stdout.readline() == b"stopped\n"
        finally:
            files.answer()
            process.kill()
