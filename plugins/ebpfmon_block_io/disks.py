"""The settings of the block I/O probe, and the names of disks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from ebpfmon import LabelSource, ProbeSettings, Rows, Setup
from ebpfmon_block_io.charts import LABELS

NO_DISK = "none"


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
    """Label rows with the kernel's names of whole disks, such as `sda` or `cciss/c0d0`."""

    fields = ("name_0", "name_1", "name_2", "name_3")
    labels = LABELS

    def __init__(self, maximum: int) -> None:
        """Show at most `maximum` disks."""
        self.maximum = maximum

    def values(self, rows: Rows) -> Sequence[tuple[str, ...]]:
        """Return the name of each disk, or `none` for requests of a queue that has no disk."""
        return [(name.decode(errors="replace") or NO_DISK,) for name in disk_names(rows).tolist()]


def disk_names(rows: Rows) -> np.ndarray:
    """Return the name of each row's disk as bytes, (rows,)."""
    words = np.stack([rows[field].astype("<u8") for field in Disks.fields], axis=1)
    return words.view(f"S{8 * len(Disks.fields)}")[:, 0]
