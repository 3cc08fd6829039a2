"""A writer of whole lines never blocks, even on a stream that blocks, and has its stream for itself."""

from __future__ import annotations

import asyncio
import errno
import os
import pty
import tty
from collections.abc import Iterator

import pytest

from ebpfmon import LineWriter

LINES = b"".join(b"%07d\n" % n for n in range(40_000))


@pytest.fixture(params=["pipe", "terminal"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """Two connected descriptors, to read from and to write to. Both block."""
    made = os.pipe() if request.param == "pipe" else pty.openpty()
    if request.param == "terminal":
        tty.setraw(made[1])
    yield made
    for end in made:
        os.close(end)


@pytest.mark.timeout(20)
def test_a_stream_that_cannot_be_opened_again_blocks_nothing(ends: tuple[int, int]) -> None:
    """It shares the flags of the original, which is in blocking mode."""
    reader, writer = ends
    lines = LineWriter(os.dup(writer))

    async def run() -> bytes:
        lines.start(LINES)
        assert not await lines.drain(0.1)
        assert os.get_blocking(writer)
        got, draining = b"", asyncio.create_task(lines.drain())
        while len(got) < len(LINES):
            got += await asyncio.to_thread(os.read, reader, 1 << 16)
        assert await draining
        return got

    assert asyncio.run(run()) == LINES
    lines.close()


def test_a_stream_has_one_writer_at_a_time_and_the_next_one_when_it_is_closed(ends: tuple[int, int]) -> None:
    first = LineWriter(os.dup(ends[1]))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="another sink still writes to it") as error:
        LineWriter(os.dup(ends[1]))
    assert error.value.errno == errno.EBUSY
    assert len(os.listdir("/proc/self/fd")) == before, "the refused descriptor is closed"
    first.close()
    first.close()
    LineWriter(os.dup(ends[1])).close()


def test_a_writer_that_was_forgotten_does_not_keep_its_stream(ends: tuple[int, int]) -> None:
    fd = os.dup(ends[1])
    LineWriter(fd)
    LineWriter(os.dup(ends[1])).close()
    os.close(fd)


def test_any_number_of_writers_may_write_to_dev_null() -> None:
    writers = [LineWriter(os.open(os.devnull, os.O_WRONLY)) for _ in range(3)]
    for writer in writers:
        writer.start(b"x\n")
        writer.write()
        assert not writer.pending
        writer.close()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("again", [LINES, b"next\n"], ids=["the same lines", "other lines"])
def test_what_was_cut_is_finished_and_lines_that_are_written_again_are_not_doubled(
    ends: tuple[int, int], again: bytes
) -> None:
    reader, writer = ends
    lines = LineWriter(os.dup(writer))

    async def run() -> None:
        lines.start(LINES)
        assert not await lines.drain(0.05)
        lines.start(b"not begun, so it is dropped\n")
        lines.close()
        other = LineWriter(os.dup(writer))
        other.start(again)
        expected = LINES if again == LINES else LINES + again
        got, draining = b"", asyncio.create_task(other.drain())
        while len(got) < len(expected):
            got += await asyncio.to_thread(os.read, reader, 1 << 16)
        assert await draining
        assert got == expected
        other.close()

    asyncio.run(run())
