"""Debian's Prometheus scrapes the real daemon: what it has then is what the kernel counted and the JSON log says.

Needs root, and Debian's package `prometheus`, which is installed if it is missing. EBPFMON_LONG=1 makes it a minute.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ebpfmon import Chart, Scope, registry
from ebpfmon_sinks.http_json.metrics import is_counter, name_of
from tests.kernel.support import counts_of, work

SECONDS = 60 if os.environ.get("EBPFMON_LONG") else 20
ROUNDS = 3
NAME = f"busy-{os.getpid()}"
"""Of the workload: other tests may run one at the same time."""
PLAN = {"open": 1009, "read": 2003, "write": 1511, "unlink": 127, "fork": 41, "read_fail": 89, "write_fail": 97}
COUNTERS = {
    "ebpfmon_apps_file_open_calls_total": "open_calls", "ebpfmon_apps_file_closed_calls_total": "close_calls",
    "ebpfmon_apps_vfs_read_calls_total": "read_calls", "ebpfmon_apps_vfs_read_bytes_total": "read_bytes",
    "ebpfmon_apps_vfs_write_calls_total": "write_calls", "ebpfmon_apps_vfs_write_bytes_total": "write_bytes",
    "ebpfmon_apps_vfs_read_error_calls_total": "read_errors", "ebpfmon_apps_file_deleted_calls_total": "unlink_calls",
    "ebpfmon_apps_process_create_calls_total": "processes_created",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def permission() -> None:
    if os.getuid():
        pytest.skip("the daemon needs root")


@pytest.fixture(scope="module")
def prometheus() -> str:
    """Debian's, with its promtool."""
    if not shutil.which("prometheus"):
        apt = shutil.which("apt-get")
        if not apt:
            pytest.skip("prometheus is not installed, and there is no apt-get")
        done = subprocess.run(
            [apt, "-qq", "-y", "install", "--no-install-recommends", "prometheus"],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"apt-get cannot install prometheus: {done.stderr[-200:]}")
    return "prometheus"


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        pytest.skip("the workload needs gcc or clang")
    program = tmp_path_factory.mktemp("workload") / NAME
    source = Path(__file__).parents[1] / "kernel" / "workload.c"
    subprocess.run([compiler, "-O1", "-static", "-pthread", "-o", program, source], check=True)
    return program


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as end:
        return int(end.getsockname()[1])


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something holds; returns it."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.1)


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended by its id."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@contextmanager
def monitored(where: Path) -> Iterator[tuple[str, Path]]:
    """The daemon; where it is served, and its log."""
    port, log, settings, groups = free_port(), where / "log.json", where / "ebpfmon.toml", where / "groups.conf"
    groups.write_text(f"busy: {NAME}\n")
    settings.write_text(
        f'[ebpfmon]\nload_mode = "return"\n[apps]\ngroups = "{groups}"\n'
        f'[[sinks]]\ntype = "http_json"\nport = {port}\n'
        f'[[sinks]]\ntype = "log"\nformat = "json"\npath = "{log}"\n'
    )
    url = f"http://127.0.0.1:{port}"
    with running(sys.executable, "-m", "ebpfmon", "run", "--config", settings) as process:
        until(lambda: process.poll() is None and get(f"{url}/readyz"))
        yield url, log
        assert process.poll() is None


@contextmanager
def scraping(program: str, url: str, where: Path) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Prometheus; asks it something, for now."""
    port, config = free_port(), where / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 900ms}\n"
        f'scrape_configs: [{{job_name: ebpfmon, static_configs: [{{targets: ["{url.removeprefix("http://")}"]}}]}}]\n'
    )
    address = f"127.0.0.1:{port}"

    def ask(query: str) -> list[dict[str, Any]]:
        answer = json.loads(get(f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"))
        assert answer["status"] == "success"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    with running(
        program, f"--config.file={config}", f"--storage.tsdb.path={where / 'tsdb'}", f"--web.listen-address={address}",
        "--log.level=warn",
    ):  # fmt: skip
        until(lambda: ask("up == 1"))
        yield ask


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_prometheus_has_exactly_what_the_workload_did_and_what_the_log_says(
    prometheus: str, workload: Path, tmp_path: Path
) -> None:
    with monitored(tmp_path) as (url, log), scraping(prometheus, url, tmp_path) as ask:
        begun = time.monotonic()
        work(workload, tmp_path, PLAN)  # so that its series is there before what is measured
        wanted = counts_of(PLAN)

        def have(times: int, since: dict[str, float]) -> dict[str, float]:
            """What it has of each counter, once that is so many runs more; a run may be in two intervals."""
            found = {m: ask(f'{m}{{app="busy"}}') for m in COUNTERS}
            values = {m: float(series[0]["value"][1]) for m, series in found.items() if series}
            enough = all(values.get(m, -1) >= since.get(m, 0) + times * wanted[c] for m, c in COUNTERS.items())
            return values if enough else {}

        before: dict[str, float] = until(lambda: have(1, {}))
        for _ in range(ROUNDS):
            work(workload, tmp_path, PLAN)
        until(lambda: have(ROUNDS, before))
        time.sleep(max(2.0, SECONDS - (time.monotonic() - begun)))  # it is to go on being scraped, and nothing added

        spent = int(time.monotonic() - begun) + 10
        for name, counter in COUNTERS.items():
            (series,) = ask(f'{name}{{app="busy"}}[{spent}s]')
            values = [float(v) for _, v in series["values"]]
            assert values == sorted(values), f"{name} fell"
            assert values[-1] - before[name] == ROUNDS * wanted[counter], name
            assert ask(f"sum(resets({name}[{spent}s]))")[0]["value"][1] == "0"
            # Prometheus itself goes on to where the series begins and ends between two scrapes
            (increase,) = ask(f'increase({name}{{app="busy"}}[{spent}s])')
            assert 1 <= float(increase["value"][1]) / (values[-1] - values[0]) < 1.1, name
        assert float(ask(f"sum(sum_over_time(up[{spent}s]))")[0]["value"][1]) >= SECONDS * 0.8
        assert float(ask(f"min(min_over_time(up[{spent}s]))")[0]["value"][1]) == 1

        scraped_is_logged(ask, lines_of(log), spent)
        promtool_is_silent(url)


def scraped_is_logged(ask: Callable[[str], list[dict[str, Any]]], lines: list[dict[str, Any]], spent: int) -> None:
    """Every value of every scrape is that of the line of the same interval."""
    charts: dict[str, Chart] = {c.id: c for p in registry.discover().probes.values() for c in p.charts}
    logged = {line["time"]: line for line in lines}
    (clock,) = ask(f"ebpfmon_snapshot_time_seconds[{spent}s]")
    interval_of = {at: float(when) for at, when in clock["values"]}  # by scrape
    assert len(set(interval_of.values())) >= SECONDS * 0.8
    compared = 0
    for chart in charts.values():
        name, _, _ = name_of(chart)
        if chart.scope is Scope.KEYS:
            assert not ask(f"{name}_total")
            continue
        for series in ask(f"{name}_total[{spent}s]" if is_counter(chart) else f"{name}[{spent}s]"):
            whose = series["metric"]["app" if chart.scope is Scope.APPS else "dimension"]
            for at, value in series["values"]:
                shown = [c for c in logged[interval_of[at]]["charts"] if c["id"] == chart.id]
                assert [d["total"] for d in shown[0]["dimensions"] if d["name"] == whose] == [float(value)], name
                compared += 1
    assert compared > 100 * SECONDS


def promtool_is_silent(url: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=get(f"{url}/metrics"), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_json_of_processes_adds_up_to_the_workload_and_to_the_totals(workload: Path, tmp_path: Path) -> None:
    with monitored(tmp_path) as (url, _):
        seen: dict[float, list[dict[str, Any]]] = {}

        def mine(tgid: int) -> list[dict[str, Any]]:
            answer = json.loads(get(f"{url}/api/v1/processes?sort=read_calls&top=1000&app=busy"))
            seen[answer["time"]] = [p for p in answer["processes"] if p["tgid"] == tgid]
            return seen[answer["time"]]

        mine(0)
        # its end is seen in the interval in which it ends: whoever asks four times a second misses none
        tgid = work(workload, tmp_path, PLAN)
        until(lambda: mine(tgid), 10)
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            mine(tgid)
            time.sleep(0.2)
        found = [p for of_time in seen.values() for p in of_time]
        assert {p["comm"] for p in found} == {NAME}
        assert {p["app"] for p in found} == {"busy"}
        wanted = counts_of(PLAN)
        for counter in ("read_calls", "read_errors", "write_calls", "write_bytes", "unlink_calls", "processes_created"):
            amounts = sum(p["amounts"].get(counter, 0) for p in found)
            # before execve(2) it was a fork of this process: same number, same start
            assert 0 <= amounts - wanted[counter] <= (16 if counter == "read_calls" else 4), counter
        whole = json.loads(get(f"{url}/api/v1/processes?top=1000"))
        assert whole["found"] == len(whole["processes"])
        families = {f.name for f in text_string_to_metric_families(get(f"{url}/metrics").decode())}
        assert "ebpfmon_build_info" in families
