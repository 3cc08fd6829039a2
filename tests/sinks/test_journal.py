"""The log sink with systemd's journald in a mount namespace, read back by journalctl."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ebpfmon_sinks.log.journal import SNAPSHOT_ID
from tests.sinks.support import ROOT, Daemon, numbers_of, program, running, traffic, until

JOURNALD = Path("/lib/systemd/systemd-journald")
SNAPSHOTS = f"MESSAGE_ID={SNAPSHOT_ID}"
# A separate /run, in which journald creates its sockets and its journal. It lasts as long as `cat` runs. The mount must
# not be visible outside. unshare(1) would make / private, but in a chroot / is not a mount point. nsenter(1) enters the
# root of the namespace, which always is one.
NAMESPACE = """
nsenter --mount=/proc/$$/ns/mnt mount --make-rprivate / &&
mount -t tmpfs none /run && mkdir -p /run/systemd/journald.conf.d /run/log/journal &&
cd /run/systemd/journald.conf.d && printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\nAudit=\\n' >test.conf && cd / &&
echo ready && exec cat
"""
# Run a command as systemd runs a service: stdout and stderr are the journal, and JOURNAL_STREAM identifies it.
SERVICE = [
    "systemd-cat", "--identifier=ebpfmon", "sh", "-c",
    'JOURNAL_STREAM=$(stat --dereference --format=%d:%i /proc/self/fd/2) exec "$@"', "sh",
]  # fmt: skip


class Journald:
    """A journald in its namespace."""

    def __init__(self, holder: int) -> None:
        self.inside = ["nsenter", "--mount", "--root", "--wd", "--target", str(holder)]
        self._journal = Path("/proc", str(holder), "root/run/log/journal")
        self._socket = Path("/proc", str(holder), "root/run/systemd/journal/socket")

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run journald. Yields its process when its socket exists."""
        self._socket.unlink(missing_ok=True)
        with running([*self.inside, str(JOURNALD)]) as process:
            until(self._socket.exists, "journald")
            yield process

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """Return the entries that journalctl shows."""
        command = ["journalctl", "-D", str(self._journal), "--output=json", "--all", "--quiet", *matches]
        done = subprocess.run(command, capture_output=True, check=False)
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def journald() -> Iterator[Journald]:
    program("journalctl", "systemd")
    command = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", NAMESPACE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"ready\n"
        yield Journald(holder.pid)
        assert holder.stdin
        holder.stdin.close()


def field(*words: str) -> str:
    """Return the name of a field, by the rule on the page."""
    chart, *more = words
    plain = "_".join(("EBPFMON", chart.removeprefix("ebpf.").removeprefix("ebpfmon."), *more))
    return plain.upper().replace(".", "_").replace(" ", "_")


def compare(line: Mapping[str, Any], entry: Mapping[str, Any]) -> int:
    """Compare all numbers, and return how many there were."""
    compared = 0
    for chart in line["charts"]:
        numbers = list(numbers_of({"charts": [chart]}))
        if chart["labels"]:
            shown = json.loads(entry[field(chart["id"])])
            assert sum(shown.values()) == pytest.approx(sum(n.amount for n in numbers), rel=1e-12), chart["id"]
            if any(n.role == "other" for n in numbers):
                assert len(shown) <= (5 + 2) * len({n.id for n in numbers})
            else:  # its series do not add up to a total, so none may be left out
                assert shown == {"_".join([n.joined_names, *n.column]): n.amount for n in numbers if n.amount}
            compared += len(shown)
            continue
        expected = {field(chart["id"], *n.column): n.amount for n in numbers}
        assert {name: float(entry[name]) for name in expected} == expected
        compared += len(expected)
    assert entry["EBPFMON_ELAPSED_S"] == f"{line['elapsed_s']:.4f}"
    assert entry["EBPFMON_COMPLETE"] == str(line["complete"]).lower()
    assert entry["PRIORITY"] == ("6" if line["complete"] else "4")
    return compared


def by_time(entries: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {entry["EBPFMON_TIME"]: entry for entry in entries}


@pytest.mark.timeout(180)
def test_in_a_service_the_journal_has_every_number_of_the_log_and_the_messages(
    journald: Journald, tmp_path: Path
) -> None:
    daemon = Daemon(tmp_path, [{"type": "log", "name": "stdout"}])
    with traffic(tmp_path), journald.running(), daemon.running(around=[*journald.inside, *SERVICE]):
        until(lambda: len(journald.entries(SNAPSHOTS)) >= 5, "snapshots in the journal")
        messages, entries, lines = journald.entries("_TRANSPORT=stdout"), journald.entries(SNAPSHOTS), daemon.lines()
    found = by_time(entries)
    assert len(found) == len(entries)
    compared = [compare(line, found[key]) for line in lines if (key := f"{line['time']:.3f}") in found]
    assert len(compared) >= 4
    assert min(compared) > 40
    assert all("VFS      Calls to IO" in entry["MESSAGE"] for entry in entries)
    priorities = {m["MESSAGE"].partition(":")[0]: m["PRIORITY"] for m in messages}
    assert priorities["probe 'process'"] == "6"
    assert {m["SYSLOG_IDENTIFIER"] for m in messages + entries} == {"ebpfmon"}


@pytest.mark.timeout(180)
def test_a_restarted_journald_gets_what_it_missed(journald: Journald, tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, [{"type": "log", "name": "journal", "path": "journal"}])

    def missing(lines: Sequence[Mapping[str, Any]]) -> list[str]:
        there = by_time(journald.entries(SNAPSHOTS))
        return [time for line in lines if (time := f"{line['time']:.3f}") not in there]

    with journald.running() as first, daemon.running(around=journald.inside):
        until(lambda: len(daemon.lines()) > 2 and len(missing(daemon.lines())) <= 1, "snapshots before")
        first.kill()
        first.wait()
        until(lambda: daemon.of_sink("errors", "journal"), "the sink fails")
        with journald.running():
            until(lambda: "sink 'journal' works again" in daemon.output(), "the sink works again")
            lines = daemon.stop()
            # The queue of the killed journald is lost: one entry, or two on a busy machine.
            until(lambda: len(missing(lines)) <= 2 + daemon.of_sink("dropped", "journal"), "all that was counted")


@pytest.mark.timeout(60)
def test_a_message_of_a_megabyte_arrives_whole(journald: Journald) -> None:
    code = (
        "import asyncio\nfrom ebpfmon import Snapshot\nfrom ebpfmon_sinks.log.journal import open_journal\n"
        "async def run():\n"
        "    async with open_journal(lambda snapshot: 'line\\n' * 200_000, 5, 5) as sink:\n"
        "        await sink.send(Snapshot(host='h', time_s=7, elapsed_s=1, complete=True, charts=()))\n"
        "asyncio.run(run())"
    )
    with journald.running():
        subprocess.run([*journald.inside, sys.executable, "-c", code], check=True, cwd=ROOT)
        (entry,) = until(lambda: journald.entries("EBPFMON_TIME=7.000"), "the entry")
    assert entry["MESSAGE"] == "line\n" * 200_000
