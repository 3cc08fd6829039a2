"""Helpers for the tests with real servers: waiting, ports, processes, the daemon, and activity to count."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
IS_CI = bool(os.environ.get("CI"))
Lines = Sequence[Mapping[str, Any]]
Sink = Mapping[str, Any]


def program(name: str, package: str) -> str:
    """Return the path of a server. Without it, skip the test, or fail in CI if the system has its package."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not found:
        known = subprocess.run(["apt-cache", "madison", package], capture_output=True, check=False).stdout
        reason = f"'{name}' is not installed: apt-get install {package}"
        if IS_CI and known:
            pytest.fail(reason)
        pytest.skip(reason if known else f"'{name}' is not installed, and this system has no package '{package}'")
    return found


def until(condition: Callable[[], Any], what: str = "the condition", seconds: float = 100) -> Any:
    """Wait until a condition is true, and return its value. Errors of servers that do not answer yet are ignored."""
    end = time.monotonic() + seconds
    while True:
        with suppress(OSError, ValueError, KeyError):
            if found := condition():
                return found
        assert time.monotonic() < end, f"timed out: {what}"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Return ports that are free for both protocols and both families."""
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            tcp, udp = (
                stack.enter_context(socket.socket(socket.AF_INET6, kind))
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
            )
            tcp.bind(("::", 0))
            with suppress(OSError):  # the port is in use by UDP
                udp.bind(tcp.getsockname())
                ports.append(int(tcp.getsockname()[1]))
        return ports


@contextmanager
def running(
    command: Sequence[str | Path], out: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process whose output goes to a file or is discarded."""
    with out.open("ab") if out else open(os.devnull, "ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, **(env or {})}, cwd=ROOT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Number:
    """One number of a line of the JSON log: a dimension of a series, or a bucket.

    `amount` is what happened in the interval, or the value of a gauge. `id` and `name` are the dimension's.
    """

    chart: Mapping[str, Any]
    role: str
    labels: tuple[str, ...]
    names: tuple[str, ...]
    id: str
    name: str
    amount: float
    total: float | None

    @property
    def is_gauge(self) -> bool:
        return bool(self.chart["kind"] == "gauge")

    @property
    def joined_labels(self) -> str:
        """The joined label values, for backends without labels."""
        return self._joined(self.labels)

    @property
    def joined_names(self) -> str:
        """The joined names of the label values."""
        return self._joined(self.names)

    def _joined(self, texts: tuple[str, ...]) -> str:
        pairs = zip(texts, self.labels, strict=True)
        return ":".join(
            f"[{text}]" if len(texts) > 1 and ":" in text and text == label else text for text, label in pairs
        )

    @property
    def column(self) -> list[str]:
        """The name of the dimension, if it needs one."""
        return [] if self.id == "value" else [self.name]


def numbers_of(line: Mapping[str, Any]) -> Iterator[Number]:
    """Yield all numbers of a line of the JSON log."""
    for chart in line["charts"]:
        for series in chart["series"]:
            labels = tuple(series["labels"].values())
            names = tuple((series["labels"] | series.get("names", {})).values())
            for id_, name, amount, total in _columns(chart, series):
                yield Number(chart, series["role"], labels, names, id_, name, amount, total)


def _columns(chart: Mapping[str, Any], series: Mapping[str, Any]) -> Iterator[tuple[str, str, float, float | None]]:
    if chart["kind"] != "histogram":
        for d in series["dimensions"]:
            yield d["id"], d["name"], d.get("delta", d.get("value")), d.get("total")
        return
    bounds = [*(f"{bound:.15g}" for bound in chart["bounds"]), "+Inf"]
    for name, amount, total in zip(bounds, series["buckets"], series["total"]["buckets"], strict=True):
        yield f"le_{name.strip('+')}", name, amount, total
    if "sum" in series:
        yield "sum", "sum", series["sum"], series["total"]["sum"]


class Daemon:
    """`ebpfmon run` with these sinks and one that logs JSON."""

    def __init__(self, where: Path, sinks: Sequence[Sink], settings: str = "", name: str = "ebpfmon") -> None:
        """Write the settings file. `settings` is TOML to add."""
        self._toml, self.log, self.out = where / f"{name}.toml", where / f"{name}.json", where / f"{name}.out"
        text = settings
        for sink in ({"type": "log", "format": "json", "path": str(self.log)}, *sinks):
            text += "[[sinks]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in sink.items())
        self._toml.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, around: Sequence[str] = ()) -> None:
        """Start the daemon. `around` is a command that runs it."""
        command = [*around, sys.executable, "-m", "ebpfmon", "run", *arguments, "--config", str(self._toml)]
        with self.out.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    @contextmanager
    def running(self, *arguments: str, around: Sequence[str] = ()) -> Iterator[Daemon]:
        """Run the daemon. Yields it after its first snapshot."""
        self.start(*arguments, around=around)
        try:
            with suppress(AssertionError):
                until(lambda: self.lines() or self.is_dead(), "the first snapshot")
            assert self.lines(), self.output()
            yield self
        finally:
            self.kill()

    def is_dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines that it has logged so far."""
        if not self.log.exists():
            return []
        return [
            msgspec.json.decode(line) for line in self.log.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"
        ]

    def output(self) -> str:
        return self.out.read_text(errors="replace")

    def stop(self) -> list[dict[str, Any]]:
        """Stop the daemon, check that it ends normally, and return all lines that it logged."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.output()
        assert "Traceback" not in self.output(), self.output()
        return self.lines()

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def of_sink(self, what: str, sink: str) -> float:
        """Return the sum of one of ebpfmon's own charts for a sink."""
        return sum(
            number.amount
            for line in self.lines()
            for number in numbers_of(line)
            if number.chart["id"] == f"ebpfmon.sinks_{what}" and number.labels == (sink,)
        )


@contextmanager
def traffic(where: Path) -> Iterator[None]:
    """Start programs, read files and open connections of both families. After some time, start another program."""
    stop, late = threading.Event(), where / "postgres"
    shutil.copy("/bin/cat", late)

    def work() -> None:
        turn = 0
        while not stop.wait(0.15):
            turn += 1
            for _ in range(10 + 7 * (turn % 5)):
                Path("/proc/self/status").read_bytes()
            for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
                with (
                    socket.create_server((host, 0), family=family) as listening,
                    socket.create_connection(listening.getsockname()[:2]) as caller,
                    listening.accept()[0] as called,
                ):
                    caller.sendall(b"x" * 1000 * (1 + turn % 50))
                    called.recv(1 << 20)
            command = [str(late), "/etc/passwd"] if turn > 60 else ["sh", "-c", "cat /etc/passwd"]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()
