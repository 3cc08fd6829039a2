"""Thousands of short connections to a real server: each connect, accept and close is counted, and every byte."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from tests.kernel import namespaces, servers
from tests.kernel.network import VIEWER, assert_seen, key_of
from tests.kernel.support import Monitor

pytestmark = pytest.mark.skipif(
    not (Path(servers.NGINX).exists() and Path("/usr/bin/curl").exists()), reason="nginx or curl is not installed"
)

CLIENTS, EACH = 6, 503
CONNECTIONS = CLIENTS * EACH
PAGE_BYTES = 65536
SIZES = "%{size_header} %{size_download} %{size_request} %{num_connects}\n"


def fetch(url: str) -> tuple[int, np.ndarray]:
    """Fetch the page many times, over a connection each. Return curl's process ID and its sizes of each transfer."""
    options = ("--noproxy", "*", "--http1.0", "--header", "Connection: close", "--output", "/dev/null")
    command = ("curl", "--silent", "--show-error", "--fail", *options, "--write-out", SIZES, f"{url}?[1-{EACH}]")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        output, _ = curl.communicate(timeout=servers.LIMIT_S)
    assert curl.returncode == 0
    return curl.pid, np.array([line.split() for line in output.splitlines()], int)


def until_closed(port: int) -> None:
    """Wait until no connection to this port can send any more."""

    def closed() -> bool:
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        ends = [words for words in lines if f":{port:04X}" in (words[1][-5:], words[2][-5:])]
        return not {words[3] for words in ends} - {"06", "0A"}  # TIME_WAIT and LISTEN

    namespaces.wait(closed, "connections to be closed")


def sums(rows: np.ndarray, tgids: list[int]) -> dict[str, int]:
    """Return the counters of some processes, summed over their rows."""
    own = rows[np.isin(rows["tgid"], tgids)]
    return {name: int(own[name].sum()) for name in rows.dtype.names or () if own[name].dtype == np.uint64}


def test_nginx_curl_and_ebpfmon_agree(tmp_path: Path) -> None:
    with servers.nginx(tmp_path) as server:
        url = server.commands[0][-1]
        assert isinstance(url, str)
        port = urlsplit(url).port
        assert port
        until_closed(port)  # A connection tested whether the server listens.
        (tmp_path / "access.log").write_text("")
        workers = [worker.pid for worker in psutil.Process(server.tgid).children()]
        assert len(workers) == 2
        with Monitor(VIEWER) as monitor:
            with ThreadPoolExecutor(CLIENTS) as all_at_once:
                clients = list(all_at_once.map(fetch, [url] * CLIENTS))
            until_closed(port)
        logged = (tmp_path / "access.log").read_text().splitlines()
    curls = [tgid for tgid, _ in clients]
    head, body, asked, connects = (int(n) for n in np.concatenate([output for _, output in clients]).sum(axis=0))
    assert (connects, body, len(logged)) == (CONNECTIONS, CONNECTIONS * PAGE_BYTES, CONNECTIONS)
    rows = monitor.rows("network")
    client, accepting = sums(rows, curls), sums(rows, workers)
    assert client["tcp_connects_v4"] == accepting["tcp_accepted"] == CONNECTIONS
    assert client["tcp_connects_failed"] == client["tcp_accepted"] == accepting["tcp_connects_v4"] == 0
    assert client["tcp_send_bytes"] == accepting["tcp_recv_bytes"] == asked
    assert client["tcp_recv_bytes"] == accepting["tcp_send_bytes"] == head + body
    for end in (client, accepting):
        assert_seen(end["tcp_close_calls"], CONNECTIONS)
    master = sums(rows, [server.tgid])
    assert master["tcp_accepted"] == master["tcp_send_calls"] == master["tcp_recv_calls"] == 0
    for tgid, output in clients:
        one = sums(rows, [tgid])
        assert one["tcp_connects_v4"] == EACH
        assert one["tcp_recv_bytes"] == output[:, :2].sum()
    assert_destinations(monitor, curls, workers, port, asked, head + body)


def assert_destinations(
    monitor: Monitor, curls: list[int], workers: list[int], port: int, asked: int, answered: int
) -> None:
    """Assert that all traffic is in the rows of the server's port."""
    outbound, inbound = monitor.rows("outbound"), monitor.rows("inbound")
    to_server, at_server = outbound[np.isin(outbound["tgid"], curls)], inbound[np.isin(inbound["tgid"], workers)]
    assert set(to_server[["address_high", "address_low", "port", "protocol"]].tolist()) == {
        (*key_of("127.0.0.1"), port, 6)
    }
    assert set(at_server[["port", "protocol"]].tolist()) == {(port, 6)}
    assert (to_server["sent_bytes"].sum(), to_server["received_bytes"].sum()) == (asked, answered)
    assert (at_server["received_bytes"].sum(), at_server["sent_bytes"].sum()) == (asked, answered)
    assert not np.isin(outbound["tgid"], workers).any()
    assert not np.isin(inbound["tgid"], curls).any()
