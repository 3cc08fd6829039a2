"""Find the kernel headers that BCC needs to compile: this kernel's, or those of a Debian kernel."""

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
    """Return the environment variables that BCC needs to find kernel headers, or None if there are no headers.

    Another kernel's headers will do, because the only kernel type that bcc_daemon.py uses is `struct pt_regs`, which is
    the same in all kernels.
    """
    if any(Path(place).exists() for place in host.header_paths(os.uname().release)):
        return {}
    places = [Path("/usr/src"), *fetch.cache().glob("*/*/root/usr/src")]
    common = next((path for place in places for path in sorted(place.glob("linux-headers-*-common"))), None)
    if not common:
        return None
    stem = common.name.removesuffix("common")
    architecture = next((path for path in common.parent.glob(f"{stem}*") if path != common), None)
    if not architecture:
        return None
    if not _MERGED.exists():  # Debian splits the headers between two directories, but BCC takes only one.
        _MERGED.parent.mkdir(parents=True, exist_ok=True)
        try:
            for directory in (common, architecture):
                subprocess.run(["cp", "-rsf", f"{directory}/.", _MERGED], check=True, capture_output=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(_MERGED, ignore_errors=True)
            return None
    return {"BCC_KERNEL_SOURCE": str(_MERGED)}
