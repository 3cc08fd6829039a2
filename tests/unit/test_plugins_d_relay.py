"""The relay as Netdata runs it: daemons that restart, a Netdata that ends, and silence."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.unit.netdata import Netdata
from tests.unit.test_plugins_d import LIMIT_S, connected, run, sink_of, snapshot_at, until

RUN_RELAY = "import os, sys; from ebpfmon_sinks.plugins_d.relay import main; sys.exit(main(sys.argv[1:], os.environ))"


@contextmanager
def relay(path: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_RELAY, *arguments], env={"EBPFMON_SOCKET": str(path), **environment},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def daemon(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(LIMIT_S)
        yield listening
    path.unlink()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "s"


def read_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout
    return process.stdout.readline()


@pytest.mark.parametrize(
    ("arguments", "environment", "every"),
    [
        (["1"], {}, 1),
        (["1"], {"NETDATA_UPDATE_EVERY": "5"}, 5),
        (["10"], {"NETDATA_UPDATE_EVERY": "5"}, 10),
        ([], {}, 1),
        (["x"], {"NETDATA_UPDATE_EVERY": "-3"}, 1),
    ],
)
def test_the_relay_requests_an_update_interval(
    place: Path, arguments: list[str], environment: dict[str, str], every: int
) -> None:
    with daemon(place) as listening, relay(place, *arguments, **environment):
        end, _ = listening.accept()
        with end:
            assert end.recv(100) == b"every %d\n" % every


def test_the_relay_copies_whole_lines_and_finds_the_next_daemon(place: Path) -> None:
    with relay(place, "1") as process:
        with daemon(place) as listening:
            end, _ = listening.accept()
            end.sendall(b"CHART a\nDIMEN")
            assert read_line(process) == b"CHART a\n"
            end.sendall(b"SION b\nSET half")
            assert read_line(process) == b"DIMENSION b\n"
            end.close()
        with daemon(place) as listening:
            end, _ = listening.accept()
            end.sendall(b"CHART c\n")
            assert read_line(process) == b"CHART c\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0
            end.close()
        assert process.stderr
        states = [line.split(b": ", 2)[2] for line in process.stderr.read().splitlines()]
    ours = [
        b"waiting for ebpfmon",
        b"receiving data from ebpfmon",
        b"waiting for ebpfmon",
        b"receiving data from ebpfmon",
    ]
    assert [s.partition(b" at ")[0] for s in states][-3:] == ours[1:]
    assert len(states) <= 4, "one line for each change of state"


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("how", ["SIGTERM", "QUIT", "stdout"])
def test_the_relay_ends_with_netdata_and_its_status_is_never_a_failure(place: Path, how: str, connected: bool) -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(daemon(place)) if connected else None
        process = stack.enter_context(relay(place, "1"))
        assert process.stdin
        assert process.stdout
        if listening:
            end, _ = listening.accept()
            stack.enter_context(end)
            end.sendall(b"CHART a\n")
            read_line(process)
        assert process.stderr
        process.stderr.readline()  # the relay runs
        match how:
            case "SIGTERM":
                process.terminate()
            case "QUIT":
                process.stdin.write(b"QUIT\n")
                process.stdin.flush()
            case "stdout":
                process.stdout.close()
        assert process.wait(LIMIT_S) == 0


def test_the_relay_continues_without_stdin(place: Path) -> None:
    with daemon(place) as listening, relay(place, "1") as process:
        assert process.stdin
        process.stdin.close()
        end, _ = listening.accept()
        for n in range(3):
            end.sendall(b"%d\n" % n)
            assert read_line(process) == b"%d\n" % n
        end.close()


def test_the_relay_writes_empty_lines_so_that_netdata_does_not_stop_it(place: Path) -> None:
    code = RUN_RELAY.replace(
        "import main;", "import main; import ebpfmon_sinks.plugins_d.relay as r; r._KEEPALIVE_S = 0.1;"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "1"], env={"EBPFMON_SOCKET": str(place)}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    with process:
        assert [read_line(process) for _ in range(3)] == [b"\n"] * 3
        with daemon(place) as listening:
            end, _ = listening.accept()
            assert [read_line(process) for _ in range(3)] == [b"\n"] * 3
            end.close()
        process.kill()


def test_the_relay_imports_little_and_only_the_standard_library() -> None:
    code = "import sys; sys.path.append('.'); import ebpfmon_sinks.plugins_d.relay; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    modules = {m.partition(".")[0] for m in done.stdout.split()}
    assert modules - {"ebpfmon_sinks", "__main__"} <= {*sys.stdlib_module_names}
    assert not modules & {"asyncio", "logging", "typing", "re", "subprocess", "random", "argparse"}


def test_the_sink_and_the_relay_understand_each_other(place: Path) -> None:
    netdata = Netdata()

    async def work() -> None:
        async with sink_of(place) as sink:
            with relay(place, "1") as process:
                await until(lambda: connected(sink, 1))
                for n in range(5):
                    await sink.send(snapshot_at(n))
                assert process.stdout
                os.set_blocking(process.stdout.fileno(), False)
                data = b""
                while data.count(b"END\n") < 4:
                    data += process.stdout.read() or b""
                    await asyncio.sleep(0.01)
                netdata.read(data)

    run(work)
    assert netdata.charts["x.io"].shows("r") == [2, 3, 4]
