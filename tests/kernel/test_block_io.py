"""Requests to a disk that only the test uses, compared with the kernel's own counts."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import struct
import subprocess
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ebpfmon import LoadMode
from ebpfmon_block_io.disks import disk_names
from tests.kernel.support import RELEASES_ARE_SEEN, Monitor

READS, WRITES, FLUSHES, DISCARDS = 211, 103, 13, 7
BLOCK, SECTOR = 4096, 512
SIZE = 8 << 20
BLKDISCARD, BLKPG = 0x1277, 0x1269
SLOTS = 24
FIRST_SECTOR = 2048  # Start of the partition.
# Positions in /sys/block/DISK/stat (Documentation/block/stat.rst).
STAT = {"read_requests": 0, "read_bytes": 2, "write_requests": 4, "write_bytes": 6, "discard_requests": 11,
        "discard_bytes": 13, "flush_requests": 15}  # fmt: skip


def settings(attach: str = "auto", mode: str = "entry") -> dict[str, object]:
    others = {name: {"enabled": False} for name in ("process", "network_viewer")}
    return {
        "ebpfmon": {"load_mode": mode, "attach": attach},
        "groups": {"by": []},
        "plugins": {**others, "block_io": {"enabled": True}},
    }


def stat(disk: str) -> dict[str, int]:
    fields = [int(n) for n in Path(f"/sys/block/{disk}/stat").read_text().split()]
    return {name: fields[n] * (SECTOR if name.endswith("bytes") else 1) for name, n in STAT.items()}


@dataclass(frozen=True)
class Disk:
    """A disk that only the test uses: its name, a node of its partition, and the kernel's counts before the test."""

    name: str
    node: Path
    before: dict[str, int]


@contextmanager
def loop_device(file: Path) -> Iterator[Disk]:
    """Make a loop device over a file, with one partition, and detach it at the end."""
    file.write_bytes(bytes(SIZE))
    for _ in range(10):  # Another process may take the free device first.
        free = subprocess.run(["losetup", "--find"], capture_output=True, text=True)
        if free.returncode:
            pytest.skip(f"no loop device is available: {free.stderr.strip()}")
        device = free.stdout.strip()
        name = device.removeprefix("/dev/")
        before = stat(name)
        if not subprocess.run(["losetup", "--partscan", device, file], check=False).returncode:
            break
    node = file.with_name("partition")
    try:
        add_partition(device)
        number = Path(f"/sys/block/{name}/{name}p1/dev").read_text().strip()
        major, _, minor = number.partition(":")
        os.mknod(node, 0o600 | 0o060000, os.makedev(int(major), int(minor)))
        yield Disk(name, node, before)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def add_partition(device: str) -> None:
    """Add partition 1 from FIRST_SECTOR to the disk's end. Works without support for partition tables."""
    start, length = FIRST_SECTOR * SECTOR, SIZE - FIRST_SECTOR * SECTOR
    partition = ctypes.create_string_buffer(struct.pack("qqi128x4x", start, length, 1))  # struct blkpg_partition
    address, size = ctypes.addressof(partition), len(partition) - 1  # without the terminating null byte
    with open(device, "rb") as disk:
        fcntl.ioctl(disk, BLKPG, struct.pack("iiiP", 1, 0, size, address))  # BLKPG_ADD_PARTITION


def read_and_write(node: Path, reads: int, writes: int) -> None:
    """Read and write single blocks. Each call is one request: it bypasses the page cache, and nothing can be merged."""
    fd = os.open(node, os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, BLOCK)
    try:
        for n in range(reads):
            assert os.preadv(fd, [buffer], BLOCK * (2 * n % 512)) == BLOCK
        for n in range(writes):
            assert os.pwritev(fd, [buffer], BLOCK * (2 * n % 512)) == BLOCK
    finally:
        os.close(fd)


@contextmanager
def null_disk(where: Path, name: str, **attributes: int) -> Iterator[tuple[str, Path]]:
    """Make a disk in memory with null_blk. Yield its name, which the kernel chooses before 6.0, and its node."""
    kinds = Path("/proc/filesystems").read_text().split()
    if "zonefs" not in kinds or "configfs" not in kinds or not Path("/sys/module/null_blk").is_dir():
        pytest.skip("this kernel has not loaded null_blk and zonefs; the guests of make vm-test have")
    config, node = where / f"{name} config", where / f"{name} node"
    config.mkdir()
    with ExitStack() as cleanup:
        subprocess.run(["mount", "-t", "configfs", "config", config], check=True)
        cleanup.callback(umount, config)
        before = {*os.listdir("/sys/block")}
        disk = config / "nullb" / name
        disk.mkdir()
        cleanup.callback(disk.rmdir)
        for attribute, value in {"size": 64, "memory_backed": 1, "blocksize": BLOCK, **attributes}.items():
            (disk / attribute).write_text(str(value))
        (disk / "power").write_text("1")
        (name,) = {*os.listdir("/sys/block")} - before
        os.mknod(node, 0o600 | 0o060000, os.makedev(*device_numbers(name)))
        yield name, node


def device_numbers(name: str) -> tuple[int, int]:
    major, _, minor = Path(f"/sys/block/{name}/dev").read_text().strip().partition(":")
    return int(major), int(minor)


@contextmanager
def zoned_disk(where: Path) -> Iterator[tuple[str, Path]]:
    """Make a zoned disk in memory and mount zonefs on it. Yield its name and the file of a zone."""
    mounted = where / "mounted"
    mounted.mkdir()
    with null_disk(where, "ebpfmon_zoned", zoned=1, zone_size=4) as (name, node):
        super_block = bytearray(struct.pack("<II", 0x5A4F4653, 0).ljust(BLOCK, b"\0"))  # struct zonefs_super
        struct.pack_into("<I", super_block, 4, zlib.crc32(super_block) ^ 0xFFFFFFFF)
        append_blocks(node, bytes(super_block), 1)
        # In 6.1, zonefs takes each append for an error, because it compares the position with the next one.
        subprocess.run(["mount", "-t", "zonefs", "-o", "errors=repair", node, mounted], check=True)
        try:
            yield name, mounted / "seq" / "0"
        finally:
            umount(mounted)


def umount(mounted: Path) -> None:
    subprocess.run(["umount", mounted], check=True)


def append_blocks(file: Path, block: bytes, count: int) -> None:
    """Append a block to a file several times, each as one request that bypasses the page cache."""
    fd = os.open(file, os.O_WRONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, BLOCK)
    buffer[:] = block
    try:
        for _ in range(count):
            try:
                os.pwritev(fd, [buffer], os.fstat(fd).st_size)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
    finally:
        os.close(fd)


def test_appending_to_a_zone_is_a_write(tmp_path: Path) -> None:
    """zonefs appends to the zone of a file that is written to with O_DIRECT."""
    with Monitor(settings()) as monitor, zoned_disk(tmp_path) as (name, zone):
        append_blocks(zone, bytes(BLOCK), WRITES)
        assert zone.stat().st_size == WRITES * BLOCK
        expected = WRITES + 1  # the super block

        def left() -> int:
            return expected - counted(of_disk(monitor, name))["write_requests"]

        missed = until_harvested(monitor, left, expected)
        found, now = counted(of_disk(monitor, name)), stat(name)
    assert expected - missed <= found["write_requests"] <= expected == now["write_requests"]
    assert missed or found["write_bytes"] == expected * BLOCK == now["write_bytes"]


def test_a_disk_with_the_number_of_a_removed_disk_has_its_own_name(tmp_path: Path) -> None:
    expected: Counter[str] = Counter()
    numbers = []
    with Monitor(settings()) as monitor:
        for name, writes in (("ebpfmon_one", 211), ("ebpfmon_two", 307)):
            with null_disk(tmp_path, name) as (name, node):
                numbers.append(device_numbers(name))
                read_and_write(node, 0, writes)
                expected[name] += writes

        def left() -> int:
            return sum(n - counted(of_disk(monitor, name))["write_requests"] for name, n in expected.items())

        missed = until_harvested(monitor, left, sum(expected.values()))
    assert numbers[0] == numbers[1]
    assert 0 <= left() <= missed


def of_disk(monitor: Monitor, name: str) -> np.ndarray:
    rows = monitor.rows("block_io")
    found: np.ndarray = rows[disk_names(rows) == name.encode()]
    return found


def counted(rows: np.ndarray) -> dict[str, int]:
    return {name: int(rows[name].sum()) for name in STAT}


def until_harvested(monitor: Monitor, left: Callable[[], int], happened: int) -> int:
    """Wait until nothing is left to harvest, and return how many completions of requests may be missing.

    These are the runs that the kernel reports as missed and, if it runs no program in the context of PID 1 (see
    RELEASES_ARE_SEEN), some that it does not report.
    """
    first, unreported = len(monitor.snapshots), 0 if RELEASES_ARE_SEEN else happened // 4 + 1

    def enough() -> bool:
        waited = len(monitor.snapshots) > first + 3
        return not left() or (waited and left() <= monitor.missed_runs + unreported)

    monitor.until(enough)
    return monitor.missed_runs + unreported if left() else 0


@pytest.mark.parametrize("mode", LoadMode)
@pytest.mark.parametrize("attach", ["tracepoint", "auto"])
def test_requests_and_bytes_match_the_kernels_counts(attach: str, mode: LoadMode, tmp_path: Path) -> None:
    with Monitor(settings(attach, mode)) as monitor, loop_device(tmp_path / "disk") as disk:
        # The kernel and udev read the new disk too. Both counts include that.
        name, node = disk.name, disk.node
        read_and_write(node, READS, WRITES)
        fd = os.open(node, os.O_RDWR)
        for _ in range(FLUSHES):
            os.fsync(fd)
        # If the file is on overlayfs, before Linux 6.1, one of the two is 0, and the disk cannot discard.
        limits = [
            int(Path(f"/sys/block/{name}/queue/discard_{what}").read_text()) for what in ("max_bytes", "granularity")
        ]
        discards = DISCARDS if all(limits) else 0
        for n in range(discards):
            fcntl.ioctl(fd, BLKDISCARD, struct.pack("QQ", n * 65536, 65536))
        os.close(fd)
        missed = until_harvested(monitor, lambda: not_harvested(monitor, disk), READS + WRITES + FLUSHES + discards)
        found = counted(of_disk(monitor, name))
    rows = of_disk(monitor, name)
    expected = {"discard_requests": discards, "discard_bytes": discards * 65536, "flush_requests": FLUSHES,
              "write_requests": WRITES, "write_bytes": WRITES * BLOCK}  # fmt: skip
    if not missed:  # Rarely, a disk's interrupt interrupts a program, and the kernel reports a missed run.
        assert {name: found[name] for name in expected} == expected
    assert found["read_requests"] >= READS - missed
    for op in ("read", "write", "flush", "discard"):
        assert 0 <= rows[f"{op}_issued"].sum() - rows[f"{op}_requests"].sum() <= missed
        assert sum(rows[f"{op}_latency_{n}"].sum() for n in range(SLOTS)) == rows[f"{op}_requests"].sum()
        assert not rows[f"{op}_errors"].any()
        assert (rows[f"{op}_ns"] >= rows[f"{op}_requests"]).all()
    latency = [s.total_histogram for c in monitor.charts("ebpf.disk_read_latency") for s in c.series()
               if s.labels == (name,)]  # fmt: skip
    assert latency[-1].count == found["read_requests"]
    assert latency[-1].sum == rows["read_ns"].sum()


def not_harvested(monitor: Monitor, disk: Disk) -> int:
    """Return how many requests were not harvested yet. The kernel counts a flush as a write of no bytes as well."""
    now, found = stat(disk.name), counted(of_disk(monitor, disk.name))
    grown = {f: now[f] - disk.before[f] for f in STAT if f.endswith("requests")}
    assert grown["write_requests"] - WRITES in (0, grown["flush_requests"])
    grown["write_requests"] = WRITES
    left = sum(abs(count - found[f]) for f, count in grown.items())
    return left or int(now["read_bytes"] - disk.before["read_bytes"] != found["read_bytes"])


def test_merged_writes_are_one_request(tmp_path: Path) -> None:
    with Monitor(settings()) as monitor, loop_device(tmp_path / "disk") as disk:
        fd = os.open(disk.node, os.O_RDWR)
        for n in range(509):  # The page cache writes these blocks together.
            os.pwrite(fd, bytes(BLOCK), n * BLOCK)
        os.fsync(fd)
        os.close(fd)

        def bytes_not_harvested() -> int:
            found = counted(of_disk(monitor, disk.name))
            return stat(disk.name)["write_bytes"] - disk.before["write_bytes"] - found["write_bytes"]

        missed = until_harvested(monitor, lambda: bytes_not_harvested() // BLOCK, 509)
        now, found = stat(disk.name), counted(of_disk(monitor, disk.name))
    assert missed or found["write_bytes"] == 509 * BLOCK
    assert found["write_requests"] < 509
    # The kernel counts a flush as a write of no bytes as well.
    extra = now["write_requests"] - disk.before["write_requests"] - found["write_requests"]
    assert 0 <= extra <= now["flush_requests"] - disk.before["flush_requests"] + missed


def test_requests_in_flight_are_never_negative_and_end_at_zero_under_load(
    tmp_path: Path,
) -> None:
    with Monitor(settings()) as monitor, loop_device(tmp_path / "disk") as disk:
        name, node = disk.name, disk.node
        threads = [threading.Thread(target=read_and_write, args=(node, 401, 211)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = {"read_requests": 4 * 401, "write_requests": 4 * 211, "write_bytes": 4 * 211 * BLOCK}

        def left() -> int:
            found = counted(of_disk(monitor, name))
            return sum(max(n - found[f], 0) // (BLOCK if f.endswith("bytes") else 1) for f, n in expected.items())

        missed = until_harvested(monitor, left, sum(expected.values()) // BLOCK + 4 * (401 + 211))
        rows = of_disk(monitor, name)
        assert rows["write_requests"].sum() <= expected["write_requests"]
        assert rows["write_bytes"].sum() <= expected["write_bytes"]
    # Snapshots without a series of the disk had none of its requests in flight.
    found = [
        int(sum(sum(s.deltas) for s in c.series() if s.labels == (name,)))
        for c in monitor.charts("ebpf.disk_in_flight")
    ]
    assert min(found) >= 0
    # If the kernel missed a run, and reported that, the completion of a request may be missing.
    assert found[-1] <= missed
    # In each interval, the requests in flight are those issued so far minus those completed so far.
    issued = itertools.accumulate(int(table.totals["read_issued"]) for table in monitor.harvests("block_io"))
    completed = itertools.accumulate(int(table.totals["read_requests"]) for table in monitor.harvests("block_io"))
    in_flight = [c.sums()["read"] for c in monitor.charts("ebpf.block_in_flight")]
    assert in_flight == [a - b for a, b in zip(issued, completed, strict=True)]
