"""A stranger's afternoon: packages outside the repository, made from the templates, in an environment of their own
beside the wheel; built, tested, run on this kernel, and seen on every backend."""

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

from tests.kernel.third_party import amounts, programs, running
from tests.unit.netdata import Netdata

pytestmark = pytest.mark.timeout(300)  # programs are compiled, environments made: a busy machine takes its time
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
class Outside:
    """An environment with ebpfmon's wheel in it."""

    where: Path

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """A command of the environment; what it writes to stdout."""
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
        """Install something. Nothing is asked of a network: what it needs is there."""
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
        self.run("python", "-m", "pip", "install", *offline, *arguments)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    """The wheel of this tree in an environment of its own, whose other packages are those of this one, but ebpfmon."""
    found = Outside(tmp_path_factory.mktemp("outside"))
    building = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w"]
    subprocess.run([*building, found.where, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", found.where / "venv"], check=True)
    others = found.where / "others"
    others.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(place).iterdir():
            if not re.search(r"ebpfmon|\.pth$|__editable__|__pycache__", path.name):
                (others / path.name).symlink_to(path)
    (site,) = (found.where / "venv").glob("lib/python*/site-packages")
    (site / "others.pth").write_text(f"{others}\n")
    found.pip(*found.where.glob("*.whl"))
    assert str(found.where / "venv") in found.run("python", "-c", "import ebpfmon; print(ebpfmon.__file__)")
    return found


@pytest.fixture(scope="module")
def made(outside: Outside) -> Outside:
    """With a probe and a sink, as they come from the templates: one installed as a wheel, one to work on."""
    assert "ebpfmon_naps/naps.bpf.c" in outside.run("ebpfmon", "plugin", "new", "probe", "naps")
    outside.run("ebpfmon", "plugin", "new", "sink", "lines_out", "somewhere/else")
    outside.pip(outside.where / "ebpfmon_naps")
    outside.pip("-e", outside.where / "somewhere" / "else")
    return outside


class Listener:
    """A server of the test's own, that keeps what it is sent."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive, self._data, self._lock = receive, bytearray(), threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):  # the test has ended
            while data := self._receive():
                with self._lock:
                    self._data += data

    @property
    def text(self) -> str:
        """The whole lines so far."""
        with self._lock:
            return self._data.decode().rpartition("\n")[0]


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(stack: ExitStack, kind: socket.SocketKind) -> tuple[int, socket.socket]:
    found = stack.enter_context(socket.socket(socket.AF_INET, kind))
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1], found


def test_packages_from_the_templates_pass_their_own_tests_and_are_listed(made: Outside) -> None:
    for package in ("ebpfmon_naps", "somewhere/else"):
        said = made.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=made.where / package)
        assert re.search(r"\b3 passed in ", said), said
    listed = made.run("ebpfmon", "plugins")
    assert re.search(r"^naps +2 +active +ebpfmon-naps 0\.1\.0 +probes +probe naps$", listed, re.M)
    assert re.search(r"^lines_out +2 +active +ebpfmon-lines-out 0\.1\.0 +sinks +sink lines_out$", listed, re.M)
    objects = [str(path) for path in (made.where / "venv").rglob("naps.b*")]
    assert sorted(Path(path).name for path in objects) == ["naps.bcc.c"] * 2 + ["naps.bpf.c"] + ["naps.bpf.o"] * 2
    made.run("ebpfmon", "config", "check", "--config", made.where / "ebpfmon_naps" / "ebpfmon.toml")
    made.run("ebpfmon", "config", "check", "--config", made.where / "somewhere" / "else" / "ebpfmon.toml")


def test_what_the_strangers_probe_counts_is_seen_on_every_backend_and_by_the_strangers_sink(
    made: Outside, tmp_path: Path, sockets: ExitStack
) -> None:
    statsd_port, udp = listening(sockets, socket.SOCK_DGRAM)
    lines_port, tcp = listening(sockets, socket.SOCK_STREAM)
    tcp.listen()
    tcp.settimeout(100)
    (tmp_path / "e.toml").write_text(SETTINGS.format(where=tmp_path, statsd=statsd_port, lines_out=lines_port))
    command: list[str | Path] = [made.where / "venv" / "bin" / "ebpfmon", "run", "--config", tmp_path / "e.toml"]
    statsd = Listener(lambda: udp.recv(65536) + b"\n")
    with running(command, tmp_path) as daemon:
        connection = sockets.enter_context(tcp.accept()[0])
        lines_out = Listener(lambda: connection.recv(65536))
        netdata = sockets.enter_context(socket.socket(socket.AF_UNIX))
        daemon.until(lambda: netdata.connect_ex(str(tmp_path / "plugins.d.sock")) == 0)
        netdata.sendall(b"every 1\n")
        plugins_d = Listener(lambda: netdata.recv(65536))
        daemon.until(lambda: daemon.snapshots() and "BEGIN" in plugins_d.text and statsd.text and lines_out.text)

        programs(tmp_path, "outsider", TIMES)

        def shown_by_netdata() -> int:
            screen = Netdata()
            screen.read(plugins_d.text.encode() + b"\n")
            chart = next((c for id_, c in screen.charts.items() if "naps_started" in id_), None)
            return sum(chart.shows("outsider")) if chart and "outsider" in chart.dims else 0

        def seen() -> dict[str, int]:
            of_statsd = re.findall(r"\.naps_started\.outsider:(\d+)\|c", statsd.text)
            of_its_sink = re.findall(r"\.naps_started\.outsider\.value (\d+) \d+", lines_out.text)
            return {
                "JSON": sum(amounts(daemon.snapshots(), "processes.naps_started", process="outsider")),
                "StatsD": sum(map(int, of_statsd)),
                "Netdata": shown_by_netdata(),
                "its sink": sum(map(int, of_its_sink)),
            }

        daemon.until(lambda: min(seen().values()) >= TIMES, what=lambda: str(seen()))
        assert set(seen().values()) == {TIMES}, seen()
        assert sum(amounts(daemon.snapshots(), "naps.started", "started")) >= TIMES
        daemon.until(lambda: re.search(r"^ +\d+ outsider +\d+$", daemon.text("text"), re.M))
        assert re.search(r"^  naps +Programs started +started +\d+  programs/s$", daemon.text("text"), re.M)
        daemon.stop()
        assert "ebpfmon: probe 'naps': 1 events by tracepoint" in daemon.text("stderr")
        assert "Traceback" not in daemon.text("stderr")
