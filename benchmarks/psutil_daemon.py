"""The daemon made with psutil: print the changes of every process once a second, as JSON lines like ebpfmon's.

It does its work as cheaply as psutil allows. One loop over process_iter() keeps the process objects and reads each file
in /proc once (`oneshot`). It ticks on whole seconds, without drift. Deltas are kept by process id and start time, so a
reused process id is a new process, and the first delta of a new process is everything that it has done so far. msgspec
encodes the JSON, as in ebpfmon.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import psutil

ATTRIBUTES = ("pid", "name", "create_time", "io_counters", "num_threads", "num_fds")
COUNTERS = ("read_count", "write_count", "read_chars", "write_chars")


def main() -> None:
    """Run until the reader of the output goes away."""
    parser = argparse.ArgumentParser(prog="psutil_daemon")
    parser.add_argument("--interval", type=int, default=1, help="seconds between lines (default: 1)")
    parser.add_argument("--connections", action="store_true", help="also count the TCP and UDP sockets of each process")
    arguments = parser.parse_args()
    daemon, last = Daemon(arguments.connections), time.time()
    while True:
        due = (math.floor(time.time() / arguments.interval) + 1) * arguments.interval
        time.sleep(max(0.0, due - time.time()))
        now = time.time()
        line = msgspec.json.encode(daemon.tick(now, now - last)) + b"\n"
        last = now
        try:
            os.write(1, line)
        except BrokenPipeError:
            return


class Daemon:
    """The counters of all processes at the last tick, and their totals."""

    def __init__(self, connections: bool) -> None:
        self._connections = connections
        self._host = socket.gethostname()
        self._before: dict[tuple[int, float], tuple[int, ...]] = {}
        self._totals = dict.fromkeys(COUNTERS, 0)
        self._started = time.time()

    def tick(self, now: float, elapsed_s: float) -> dict[str, Any]:
        """Return what has changed since the last tick."""
        sockets = self._sockets() if self._connections else {}
        seen: dict[tuple[int, float], tuple[int, ...]] = {}
        changed = []
        sums = dict.fromkeys(COUNTERS, 0)
        for info in self._processes():
            key, io = (info["pid"], info["create_time"]), info["io_counters"]
            if io is None:  # No permission, or the process has ended.
                continue
            counters = seen[key] = tuple(getattr(io, name) for name in COUNTERS)
            before = self._before.get(key)
            if before is None:
                before = counters if info["create_time"] < self._started else (0,) * len(COUNTERS)
            if counters == before:
                continue
            delta = {name: c - b for name, c, b in zip(COUNTERS, counters, before, strict=True)}
            for name in COUNTERS:
                sums[name] += delta[name]
            process = {"pid": info["pid"], "name": info["name"], "threads": info["num_threads"], "fds": info["num_fds"]}
            changed.append({**process, "sockets": sockets.get(info["pid"], 0), **delta})
        self._before = seen
        for name in COUNTERS:
            self._totals[name] += sums[name]
        dimensions = [
            {"id": n, "name": n, "delta": sums[n], "total": self._totals[n], "rate": round(sums[n] / elapsed_s, 2)}
            for n in COUNTERS
        ]
        return {
            "schema": 2, "host": self._host, "time": round(now, 3), "elapsed_s": round(elapsed_s, 4),
            "charts": [{"id": "psutil.io", "series": [{"labels": {}, "dimensions": dimensions}]}], "processes": changed,
        }  # fmt: skip

    @staticmethod
    def _processes() -> Iterator[dict[str, Any]]:
        for process in psutil.process_iter(ATTRIBUTES):
            yield process.info

    @staticmethod
    def _sockets() -> dict[int, int]:
        counts: dict[int, int] = {}
        for connection in psutil.net_connections("inet"):
            if connection.pid:
                counts[connection.pid] = counts.get(connection.pid, 0) + 1
        return counts


if __name__ == "__main__":
    main()
