"""Kernel headers for BCC, which compiles nothing without: this kernel's, or else those of one of Debian's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.result import OUT
from ebpfmon.kernel import host
from tests.vm import fetch

_MERGED = OUT / "headers"


def environment() -> dict[str, str] | None:
    """What BCC must be told to find some; None if there are none.

    Another kernel's will do for a program that uses no more of the kernel than `struct pt_regs`: the registers are the
    same in all.
    """
    if any(Path(place).exists() for place in host.header_places(os.uname().release)):
        return {}
    places = [Path("/usr/src"), *fetch.cache().glob("*/*/root/usr/src")]
    common = next((found for place in places for found in sorted(place.glob("linux-headers-*-common"))), None)
    if not common:
        return None
    stem = common.name.removesuffix("common")
    of_machine = next((found for found in common.parent.glob(f"{stem}*") if found != common), None)
    if not of_machine:
        return None
    if not _MERGED.exists():  # Debian has them in two places, BCC looks into one
        _MERGED.parent.mkdir(parents=True, exist_ok=True)
        try:
            for directory in (common, of_machine):
                subprocess.run(["cp", "-rsf", f"{directory}/.", _MERGED], check=True, capture_output=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(_MERGED, ignore_errors=True)
            return None
    return {"BCC_KERNEL_SOURCE": str(_MERGED)}
