"""Disks are named as in /sys/block."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ebpfmon_block_io.disks import Disks


def test_a_disk_has_its_name_in_sysfs_or_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "259:0").symlink_to("../../devices/pci0000:00/nvme/nvme0/nvme0n1")
    (tmp_path / "104:16").symlink_to("../../devices/cciss!c0d1")
    disks = Disks(9, tmp_path)
    rows = np.array([(259 << 20,), (104 << 20 | 16,), (8 << 20 | 1048575,)], np.dtype([("device", "u4")]))
    assert disks.values(rows) == [("nvme0n1",), ("cciss/c0d1",), ("8:1048575",)]
    (tmp_path / "259:0").unlink()
    assert disks.values(rows[:1]) == [("nvme0n1",)]
