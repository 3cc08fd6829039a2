"""The settings of the probe, and the names of disks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from ebpfmon import LabelSource, ProbeSettings, Rows, Setup
from ebpfmon_block_io.charts import LABELS

_MINOR_BITS = 20
_KNOWN = 4096  # names that are remembered


class BlockIoSettings(ProbeSettings, frozen=True):
    """`[plugins.block_io]`."""

    enabled: bool = False
    table_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)] = 256
    maximum_disks: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 64
    """Disks that have dimensions of their own, the busiest ones; the rest is in `other`."""


def setup(settings: BlockIoSettings) -> Setup:
    """Name the disks."""
    return Setup(labels={"block_io": Disks(settings.maximum_disks)})


class Disks(LabelSource):
    """Whole disks, by the names that they have in /sys/block."""

    fields = ("device",)
    labels = LABELS

    def __init__(self, maximum: int, of_numbers: Path = Path("/sys/dev/block")) -> None:
        """`of_numbers`: where links named MAJOR:MINOR lead to them."""
        self.maximum, self._of_numbers = maximum, of_numbers
        self._names: dict[int, str] = {}

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return `sda`, or the numbers of a disk that has no name. A disk may go, and its numbers may become another
        disk's: the former keeps its name as long as it has a series."""
        devices: list[int] = rows["device"].tolist()
        names = {device: self._names.get(device) or self._name(device) for device in devices}
        self._names = {**self._names, **names} if len(self._names) < _KNOWN else names
        return [(names[device],) for device in devices]

    def _name(self, device: int) -> str:
        numbers = f"{device >> _MINOR_BITS}:{device & (1 << _MINOR_BITS) - 1}"
        try:
            path = os.readlink(self._of_numbers / numbers)
        except OSError:
            return numbers
        return os.path.basename(path).replace("!", "/")  # so sysfs writes cciss/c0d0
