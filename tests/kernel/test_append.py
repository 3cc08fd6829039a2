"""A log on a file system that is full or broken has whole snapshots only, and never one twice."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ebpfmon import SinkError
from ebpfmon.testing import snapshot
from ebpfmon_sinks.log.settings import LogSettings
from tests.kernel.disks import BrokenFile, mounted


def send(path: Path, *times: float) -> None:
    """Append a snapshot of 3 kB for each time."""

    async def run() -> None:
        async with LogSettings(path=str(path), format="json").open() as sink:
            for time_s in times:
                await sink.send(replace(snapshot("h" * 3000), time_s=time_s))

    asyncio.run(run())


def times(text: bytes | bytearray) -> list[float]:
    """Return the times of the snapshots in a log. Fails if a line is not whole."""
    assert text.endswith(b"\n")
    return [json.loads(line)["time"] for line in text.splitlines()]


def test_a_full_disk_has_whole_snapshots_and_takes_the_next_ones_when_it_has_room(tmp_path: Path) -> None:
    with mounted("tmpfs", "size=64k", tmp_path / "small") as small:
        log, filler = small / "log", small / "filler"
        filler.write_bytes(bytes(50_000))
        send(log, 1)
        with pytest.raises(SinkError, match="No space left on device"):
            send(log, *range(2, 30))
        written = times(log.read_bytes())
        assert written == [*range(1, len(written) + 1)]
        filler.unlink()
        send(log, len(written) + 1)
        assert times(log.read_bytes()) == [*written, len(written) + 1]


@pytest.mark.parametrize("room", [0, 1, 1500])
@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT])
def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, number: int, room: int) -> None:
    with BrokenFile(tmp_path / "fuse") as broken:
        send(broken.path, 1)
        broken.room, broken.errors = room, {"write": number}
        with pytest.raises(SinkError, match=os.strerror(number)):
            send(broken.path, 2)
        assert times(broken.contents) == [1]
        broken.room = None
        send(broken.path, 2, 3)
        assert times(broken.contents) == [1, 2, 3]


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT])
def test_an_error_at_close_as_of_network_file_systems_leaves_the_file_as_it_was(tmp_path: Path, number: int) -> None:
    with BrokenFile(tmp_path / "fuse") as broken:
        send(broken.path, 1)
        broken.errors = {"flush": number}
        with pytest.raises(SinkError, match=os.strerror(number)):
            send(broken.path, 2)
        assert times(broken.contents) == [1]
        broken.errors = {}
        send(broken.path, 2)
        assert times(broken.contents) == [1, 2]


def test_what_cannot_be_truncated_is_a_line_of_its_own(tmp_path: Path) -> None:
    with BrokenFile(tmp_path / "fuse") as broken:
        send(broken.path, 1)
        broken.room, broken.errors = 1500, {"write": errno.EIO, "truncate": errno.EIO}
        with pytest.raises(SinkError, match="Input/output error"):
            send(broken.path, 2)
        broken.room = None
        send(broken.path, 2, 3)
        first, part, *rest = bytes(broken.contents).splitlines(keepends=True)
        assert times(first + b"".join(rest)) == [1, 2, 3]
        assert len(part) == 1501
