"""Disks have the names that the kernel has for them."""

from __future__ import annotations

import numpy as np

from ebpfmon import Rows
from ebpfmon_block_io.disks import Disks, disk_names


def disk_rows(names: list[bytes]) -> Rows:
    """Return rows of disks with these names."""
    return np.array(names, "S32").view([(field, "<u8") for field in Disks.fields])


def test_a_disk_has_the_name_that_it_had_when_the_request_was_issued() -> None:
    names = [b"nvme0n1", b"cciss/c0d1", b"x" * 31, b""]
    rows = disk_rows(names)
    assert disk_names(rows).tolist() == names
    assert Disks(9).values(rows) == [("nvme0n1",), ("cciss/c0d1",), ("x" * 31,), ("none",)]
    assert Disks(9).values(rows[:0]) == []


def test_disks_with_different_names_have_different_keys_whatever_their_device_numbers_are() -> None:
    keys = disk_rows([b"sda", b"sdb", b"sda"])[[*Disks.fields]]
    assert keys[0] == keys[2] != keys[1]
    assert keys.dtype == np.dtype([(name, "u8") for name in Disks.fields])
