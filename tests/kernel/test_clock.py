"""The daemon keeps ticking while its wall clock is set, which a preloaded library does for this process alone."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path

import pytest

from tests.kernel.support import DEFAULTS, EBPFMON

SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Add the milliseconds in the file that CLOCK_OFFSET names to the wall clock. */
int clock_gettime(clockid_t id, struct timespec *ts)
{
	int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
	long long ms = 0;
	int result = real(id, ts);
	FILE *file;

	if (result || id != CLOCK_REALTIME)
		return result;
	file = fopen(getenv("CLOCK_OFFSET"), "r");
	if (file) {
		if (fscanf(file, "%lld", &ms) != 1)
			ms = 0;
		fclose(file);
	}
	ms += ts->tv_sec * 1000LL + ts->tv_nsec / 1000000;
	ts->tv_sec = ms / 1000;
	ts->tv_nsec = ms % 1000 * 1000000 + ts->tv_nsec % 1000000;
	return 0;
}
"""


@pytest.mark.parametrize("step_ms", [-1000, -3_600_000, 86_400_000])
def test_a_clock_that_is_set_in_every_interval_delays_no_snapshot(step_ms: int, tmp_path: Path) -> None:
    source, library, offset = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "offset"
    source.write_text(SOURCE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    env = {**os.environ, "LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}
    command = [*EBPFMON, "run", "--json", *DEFAULTS]
    snapshots = []
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        try:
            assert daemon.stdout
            for n in range(1, 7):
                snapshots.append(json.loads(daemon.stdout.readline()))
                (tmp_path / "new").write_text(str(n * step_ms))
                (tmp_path / "new").rename(offset)
        finally:
            daemon.terminate()
            daemon.communicate(timeout=30)
    assert daemon.returncode == 0
    moved_s = snapshots[-1]["time"] - snapshots[0]["time"] - sum(s["elapsed_s"] for s in snapshots[1:])
    assert moved_s == pytest.approx(5 * step_ms / 1000, abs=0.5), "the daemon does not see the steps"
    # On a busy machine some ticks may be late. Counting from the time that the clock shows, all of them would be.
    assert statistics.median(s["elapsed_s"] for s in snapshots[1:]) < 1.5
