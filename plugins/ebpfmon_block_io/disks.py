"""The settings of the block I/O probe, and the names of disks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from ebpfmon import LabelSource, ProbeSettings, Rows, Setup
from ebpfmon_block_io.charts import LABELS

_MINOR_BITS = 20
_CACHED_NAMES = 4096


class BlockIoSettings(ProbeSettings, frozen=True):
    """Settings in `[plugins.block_io]`."""

    enabled: bool = False
    table_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)] = 256
    maximum_disks: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 64
    """How many disks have series of their own: the busiest ones. All others are in `other`."""


def setup(settings: BlockIoSettings) -> Setup:
    """Return the label source of the table, which names the disks."""
    return Setup(labels={"block_io": Disks(settings.maximum_disks)})


class Disks(LabelSource):
    """Label rows with the names that whole disks have in /sys/block."""

    fields = ("device",)
    labels = LABELS

    def __init__(self, maximum: int, links: Path = Path("/sys/dev/block")) -> None:
        """Show at most `maximum` disks. `links` is a folder with a link called MAJOR:MINOR to each disk."""
        self.maximum, self._links = maximum, links
        self._names: dict[int, str] = {}

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the name of each disk, such as `sda`, or its numbers if it has no name.

        A disk may be removed, and its numbers given to another disk. Names are cached, so the numbers keep their first
        name while they have a row.
        """
        devices: list[int] = rows["device"].tolist()
        names = {device: self._names.get(device) or self._name(device) for device in devices}
        self._names = {**self._names, **names} if len(self._names) < _CACHED_NAMES else names
        return [(names[device],) for device in devices]

    def _name(self, device: int) -> str:
        numbers = f"{device >> _MINOR_BITS}:{device & (1 << _MINOR_BITS) - 1}"
        try:
            path = os.readlink(self._links / numbers)
        except OSError:
            return numbers
        return os.path.basename(path).replace("!", "/")  # sysfs writes cciss/c0d0 as cciss!c0d0.
