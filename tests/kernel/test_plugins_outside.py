"""Third-party packages made from the templates, installed beside ebpfmon's wheel in an environment of their own.

They are built, tested and run on this kernel, and every backend shows their counts.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kernel.third_party import amounts, run_programs, running
from tests.unit.netdata import Netdata

pytestmark = pytest.mark.timeout(300)  # Compiling and installing take long on a busy machine.
ROOT = Path(__file__).parents[2]
TIMES = 13
SETTINGS = """
[groups]
by = ["process"]

[plugins.process]
enabled = false
[plugins.network_viewer]
enabled = false
[plugins.naps]
minimum_uid = 0

[[sinks]]
type = "log"
path = "{where}/text"
applications = 1000
[[sinks]]
type = "log"
name = "json"
format = "json"
[[sinks]]
type = "statsd"
port = {statsd}
charts = ["*.naps*"]
[[sinks]]
type = "plugins_d"
socket = "{where}/plugins.d.sock"
group = ""
charts = ["*.naps*"]
[[sinks]]
type = "lines_out"
port = {lines_out}
charts = ["*.naps*"]
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with ebpfmon's wheel."""

    where: Path

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Run a command of the environment, and return its stdout."""
        ours = ("PYTEST", "PYTHON", "VIRTUAL_ENV", "COV")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        program = self.where / "venv" / "bin" / command[0]
        done = subprocess.run(
            [program, *command[1:]], cwd=cwd or self.where, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pip(self, *arguments: str | Path) -> None:
        """Install a package without using the network. Its dependencies must be there."""
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
        self.run("python", "-m", "pip", "install", *offline, *arguments)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A virtual environment with a wheel built from this tree, and the other packages of the present environment."""
    new = Environment(tmp_path_factory.mktemp("environment"))
    building = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w"]
    subprocess.run([*building, new.where, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", new.where / "venv"], check=True)
    others = new.where / "others"
    others.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(place).iterdir():
            if not re.search(r"ebpfmon|\.pth$|__editable__|__pycache__", path.name):
                (others / path.name).symlink_to(path)
    (site,) = (new.where / "venv").glob("lib/python*/site-packages")
    (site / "others.pth").write_text(f"{others}\n")
    new.pip(*new.where.glob("*.whl"))
    assert str(new.where / "venv") in new.run("python", "-c", "import ebpfmon; print(ebpfmon.__file__)")
    return new


@pytest.fixture(scope="module")
def prepared(environment: Environment) -> Environment:
    """The environment with a probe and a sink made from the templates. The sink is installed in editable mode."""
    assert "ebpfmon_naps/naps.bpf.c" in environment.run("ebpfmon", "plugin", "new", "probe", "naps")
    environment.run("ebpfmon", "plugin", "new", "sink", "lines_out", "somewhere/else")
    environment.pip(environment.where / "ebpfmon_naps")
    environment.pip("-e", environment.where / "somewhere" / "else")
    return environment


class Listener:
    """Collects what a socket receives, in a thread."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive, self._data, self._lock = receive, bytearray(), threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):  # The socket is closed when the test ends.
            while data := self._receive():
                with self._lock:
                    self._data += data

    @property
    def text(self) -> str:
        """The complete lines so far."""
        with self._lock:
            return self._data.decode().rpartition("\n")[0]


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bind(stack: ExitStack, kind: socket.SocketKind) -> tuple[int, socket.socket]:
    bound = stack.enter_context(socket.socket(socket.AF_INET, kind))
    bound.bind(("127.0.0.1", 0))
    return bound.getsockname()[1], bound


def test_packages_from_the_templates_pass_their_own_tests_and_are_listed(prepared: Environment) -> None:
    for package in ("ebpfmon_naps", "somewhere/else"):
        output = prepared.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=prepared.where / package)
        assert re.search(r"\b3 passed in ", output), output
    listed = prepared.run("ebpfmon", "plugins")
    assert re.search(r"^naps +2 +active +ebpfmon-naps 0\.1\.0 +probes +probe naps$", listed, re.M)
    assert re.search(r"^lines_out +2 +active +ebpfmon-lines-out 0\.1\.0 +sinks +sink lines_out$", listed, re.M)
    objects = [str(path) for path in (prepared.where / "venv").rglob("naps.b*")]
    assert sorted(Path(path).name for path in objects) == ["naps.bcc.c"] * 2 + ["naps.bpf.c"] + ["naps.bpf.o"] * 2
    prepared.run("ebpfmon", "config", "check", "--config", prepared.where / "ebpfmon_naps" / "ebpfmon.toml")
    prepared.run("ebpfmon", "config", "check", "--config", prepared.where / "somewhere" / "else" / "ebpfmon.toml")


def test_every_backend_and_a_third_party_sink_show_what_a_third_party_probe_counts(
    prepared: Environment, tmp_path: Path, sockets: ExitStack
) -> None:
    statsd_port, udp = bind(sockets, socket.SOCK_DGRAM)
    lines_port, tcp = bind(sockets, socket.SOCK_STREAM)
    tcp.listen()
    tcp.settimeout(100)
    (tmp_path / "e.toml").write_text(SETTINGS.format(where=tmp_path, statsd=statsd_port, lines_out=lines_port))
    command: list[str | Path] = [prepared.where / "venv" / "bin" / "ebpfmon", "run", "--config", tmp_path / "e.toml"]
    statsd = Listener(lambda: udp.recv(65536) + b"\n")
    with running(command, tmp_path) as daemon:
        connection = sockets.enter_context(tcp.accept()[0])
        lines_out = Listener(lambda: connection.recv(65536))
        netdata = sockets.enter_context(socket.socket(socket.AF_UNIX))
        daemon.until(lambda: netdata.connect_ex(str(tmp_path / "plugins.d.sock")) == 0)
        netdata.sendall(b"every 1\n")
        plugins_d = Listener(lambda: netdata.recv(65536))
        daemon.until(lambda: daemon.snapshots() and "BEGIN" in plugins_d.text and statsd.text and lines_out.text)

        run_programs(tmp_path, "outsider", TIMES)

        def shown_by_netdata() -> int:
            screen = Netdata()
            screen.read(plugins_d.text.encode() + b"\n")
            chart = next((c for id_, c in screen.charts.items() if "naps_started" in id_), None)
            return sum(chart.shows("outsider")) if chart and "outsider" in chart.dims else 0

        def seen() -> dict[str, int]:
            statsd_deltas = re.findall(r"\.naps_started\.outsider:(\d+)\|c", statsd.text)
            sink_deltas = re.findall(r"\.naps_started\.outsider\.value (\d+) \d+", lines_out.text)
            return {
                "JSON": sum(amounts(daemon.snapshots(), "processes.naps_started", process="outsider")),
                "StatsD": sum(map(int, statsd_deltas)),
                "Netdata": shown_by_netdata(),
                "its sink": sum(map(int, sink_deltas)),
            }

        daemon.until(lambda: min(seen().values()) >= TIMES, what=lambda: str(seen()))
        assert set(seen().values()) == {TIMES}, seen()
        assert sum(amounts(daemon.snapshots(), "naps.started", "started")) >= TIMES
        daemon.until(lambda: re.search(r"^ +\d+ outsider +\d+$", daemon.text("text"), re.M))
        assert re.search(r"^  naps +Programs started +started +\d+  programs/s$", daemon.text("text"), re.M)
        daemon.stop()
        assert "ebpfmon: probe 'naps': 1 event by tracepoint" in daemon.text("stderr")
        assert "Traceback" not in daemon.text("stderr")
