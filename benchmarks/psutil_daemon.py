"""The baseline: what psutil can tell of every process, once a second, as JSON lines of the change."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import psutil

ATTRIBUTES = ["pid", "name", "create_time", "io_counters", "num_threads", "num_fds"]


def main() -> None:
    """Until the reader goes away."""
    before: dict[tuple[int, float], Any] = {}
    while True:
        start = time.monotonic()
        now, changed = {}, []
        for process in psutil.process_iter(ATTRIBUTES):
            info = process.info
            key, io = (info["pid"], info["create_time"]), info["io_counters"]
            now[key] = io
            then = before.get(key)
            if io and then and io != then:
                delta = {field: getattr(io, field) - getattr(then, field) for field in io._fields}
                changed.append({"pid": info["pid"], "name": info["name"], "threads": info["num_threads"], **delta})
        before = now
        sys.stdout.write(json.dumps({"time": time.time(), "processes": changed}) + "\n")
        sys.stdout.flush()
        time.sleep(max(0.0, 1 - (time.monotonic() - start)))


if __name__ == "__main__":
    main()
