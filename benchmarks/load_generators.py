"""Workloads that report a throughput: loops of system calls, and well-known programs."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import programs

_NGINX = """daemon off; pid {directory}/nginx.pid; error_log stderr error; worker_processes 1;
events {{}}
http {{ access_log off; server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{body}"; }} }} }}
"""
_START_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload: `run` loads the machine for a number of seconds and returns the throughput in `unit`."""

    name: str
    unit: str
    run: Callable[[float], float]


@contextmanager
def workloads(directory: Path, skipped: dict[str, str]) -> Iterator[list[Workload]]:
    """Start the servers and yield the workloads that can run on this machine.

    `skipped` receives the reason for each of the others.
    """
    with ExitStack() as stack:
        available = [
            Workload("read loop", "calls per CPU second", lambda s: _calls_per_cpu_s("read", s)),
            Workload("write loop", "calls per CPU second", lambda s: _calls_per_cpu_s("write", s)),
            Workload("openat, close loop", "pairs per CPU second", lambda s: _calls_per_cpu_s("open", s)),
            Workload("fork loop", "forks per CPU second", lambda s: _calls_per_cpu_s("fork", s)),
        ]
        makers: dict[str, tuple[Sequence[str], Callable[[Path, ExitStack], Workload]]] = {
            "stress-ng iomix": (("stress-ng",), _stress_ng),
            "sysbench fileio": (("sysbench",), _sysbench),
            "redis-benchmark": (("redis-server", "redis-benchmark"), _redis),
            "iperf3": (("iperf3",), _iperf3),
            "wrk on nginx": (("nginx", "wrk"), _nginx),
        }
        for name, (commands, make) in makers.items():
            missing = [program for program in commands if not shutil.which(program)]
            if missing:
                skipped[name] = f"not installed: {', '.join(missing)}"
                continue
            try:
                available.append(make(directory, stack))
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                skipped[name] = str(error)
        yield available


def _calls_per_cpu_s(kind: str, seconds: float) -> float:
    """Return how many calls fit into a second of CPU time, from the first decile of many short batches."""
    count = {"read": 10_000, "write": 10_000, "open": 3_000, "fork": 50}[kind]
    return 1e9 / programs.nanoseconds(kind, count, max(3, round(20 * seconds)))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-200:]}")
    return done.stdout + done.stderr


def number(pattern: str, text: str) -> float:
    """Return the number in the first match of a pattern. Raises RuntimeError if nothing matches."""
    match = re.search(pattern, text)
    if not match:
        raise RuntimeError(f"the output has no {pattern!r}: {text[-200:]!r}")
    return float(match[1])


def _stress_ng(directory: Path, _: ExitStack) -> Workload:
    def run(seconds: float) -> float:
        text = _output("stress-ng", "--iomix", "1", "--iomix-bytes", "16M", "--temp-path", str(directory),
                    "--timeout", str(max(1, round(seconds))), "--metrics-brief")  # fmt: skip
        return number(r"iomix\s+\d+\s+[\d.]+\s+[\d.]+\s+[\d.]+\s+([\d.]+)", text)

    return Workload("stress-ng iomix", "operations/s", run)


def _sysbench(directory: Path, stack: ExitStack) -> Workload:
    command = ["sysbench", "fileio", "--file-total-size=32M", "--file-num=8", "--file-test-mode=rndrw",
               "--file-fsync-freq=0"]  # fmt: skip
    folder = directory / "sysbench"
    folder.mkdir()
    subprocess.run([*command, "prepare"], cwd=folder, check=True, capture_output=True)

    def run(seconds: float) -> float:
        done = subprocess.run([*command, f"--time={max(1, round(seconds))}", "run"], cwd=folder, check=True,
                              capture_output=True, text=True)  # fmt: skip
        return number(r"reads/s:\s+([\d.]+)", done.stdout) + number(r"writes/s:\s+([\d.]+)", done.stdout)

    return Workload("sysbench fileio", "reads and writes/s", run)


def _redis(directory: Path, stack: ExitStack) -> Workload:
    port = _server(stack, lambda port: [
        "redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(directory),
    ])  # fmt: skip

    def run(seconds: float) -> float:
        count = str(int(60_000 * seconds))
        text = _output("redis-benchmark", "-p", str(port), "-n", count, "-c", "20", "-t", "set", "--csv")
        return number(r'"SET","([\d.]+)"', text)

    return Workload("redis-benchmark", "requests/s", run)


def _iperf3(_: Path, stack: ExitStack) -> Workload:
    port = _server(stack, lambda port: ["iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)])

    def run(seconds: float) -> float:
        text = _output("iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", str(max(1, round(seconds))), "-J")
        return float(json.loads(text)["end"]["sum_received"]["bits_per_second"]) / 8e6

    return Workload("iperf3", "MB/s", run)


def _nginx(directory: Path, stack: ExitStack) -> Workload:
    def command(port: int) -> list[str]:
        configuration = directory / "nginx.conf"
        configuration.write_text(_NGINX.format(directory=directory, port=port, body="x" * 512))
        return ["nginx", "-c", str(configuration), "-p", str(directory)]

    port = _server(stack, command)

    def run(seconds: float) -> float:
        text = _output("wrk", "-t1", "-c8", f"-d{max(1, round(seconds))}", f"http://127.0.0.1:{port}/")
        return number(r"Requests/sec:\s+([\d.]+)", text)

    return Workload("wrk on nginx", "requests/s", run)


def _server(stack: ExitStack, command: Callable[[int], list[str]]) -> int:
    """Start a server on a free port, wait until it accepts connections, and return the port.

    It is stopped when the stack closes. Raises RuntimeError if it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    server = subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(server.wait)
    stack.callback(server.terminate)
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return port
        time.sleep(0.05)
    raise RuntimeError(f"cannot connect to the server {server.args!s:.40}")
