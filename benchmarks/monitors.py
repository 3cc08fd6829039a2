"""The monitors that are compared, and how to start them."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import kernel_headers
from benchmarks.measure import Monitor

_HERE = Path(__file__).parent
_NETDATA = ("/usr/lib/netdata/plugins.d", "/usr/libexec/netdata/plugins.d")
APPS_PLUGIN = "apps.plugin (Netdata)"
# The x86-64 numbers of the system calls that ebpfmon counts.
_COUNTED = "0,1,2,3,17,18,19,20,87,257,263,295,296,327,328,436,437"
BPFTRACE = (
    "tracepoint:raw_syscalls:sys_exit / "
    + " || ".join(f"args->id == {n}" for n in _COUNTED.split(","))
    + " / { @[pid, args->id] = count(); } interval:s:1 { print(@); clear(@); }"
)


@dataclass(frozen=True, slots=True)
class Peer:
    """A monitor to compare."""

    monitor: Monitor
    reports: str
    """What it reports, for the table."""
    skip_reason: str = ""
    """Why it cannot run on this machine; empty if it can."""
    is_scraped: bool = False
    """Whether it only works when a client scrapes it over HTTP; see `with_endpoint`."""

    @property
    def name(self) -> str:
        """The name in tables."""
        return self.monitor.name

    def with_endpoint(self, port: int, configuration: Path) -> Peer:
        """Return a copy whose command has the port and the configuration file in place of PORT and FILE."""
        command = [word.replace("PORT", str(port)).replace("FILE", str(configuration)) for word in self.monitor.command]
        return replace(self, monitor=replace(self.monitor, command=command))


def ebpfmon(*arguments: str, name: str = "ebpfmon") -> Monitor:
    """Return the monitor `ebpfmon run`, with JSON on its standard output."""
    return Monitor(name, [sys.executable, "-m", "ebpfmon", "run", "--json", *arguments])


def psutil(*arguments: str, name: str = "psutil daemon") -> Monitor:
    """Return the daemon made with psutil, which ebpfmon is compared with."""
    return Monitor(name, [sys.executable, str(_HERE / "psutil_daemon.py"), *arguments])


def all_peers() -> list[Peer]:
    """Return all monitors to compare, in the order of the tables."""
    apps, ebpf = _find_in(_NETDATA, "apps.plugin"), _find_in(_NETDATA, "ebpf.plugin")
    glances = Path(sys.executable).with_name("glances")
    calls = "calls by process"
    return [
        Peer(ebpfmon(), "calls, bytes, tasks and connections by process"),
        Peer(ebpfmon("--load-mode", "return", name="ebpfmon, return"), "the same, and errors"),
        Peer(psutil(), "I/O, threads and descriptors of running processes"),
        _installed("bpftrace", "bpftrace", ["-q", "-e", BPFTRACE], calls, "bpftrace"),
        _bcc(calls),
        _peer(APPS_PLUGIN, apps, ["1"], "CPU, memory, I/O and descriptors by group", "netdata-core"),
        _peer("apps.plugin, without files", apps, ["1", "without-files"], "the same, without descriptors",
              "netdata-core"),
        Peer(
            Monitor("ebpf.plugin (Netdata)", [ebpf or "ebpf.plugin", "1"]), "calls by group", "" if ebpf else
            "not in Debian's netdata-core; the benchmark 'instructions' measures its programs",
        ),
        _installed(
            "process-exporter", "prometheus-process-exporter",
            ["-web.listen-address", "127.0.0.1:PORT", "-config.path", "FILE"], "CPU, memory and I/O by name",
            "prometheus-process-exporter", is_scraped=True,
        ),
        _peer("glances", str(glances) if glances.exists() else None, ["--stdout", "cpu.user", "-t", "1"],
              "the whole system on one screen", "glances (PyPI)"),
    ]  # fmt: skip


def _find_in(directories: tuple[str, ...], name: str) -> str | None:
    return next((str(path) for path in (Path(d) / name for d in directories) if path.exists()), None)


def _installed(
    name: str, program: str, arguments: list[str], reports: str, package: str, *, is_scraped: bool = False
) -> Peer:
    return _peer(name, shutil.which(program), arguments, reports, package, is_scraped=is_scraped)


def _peer(
    name: str, program: str | None, arguments: list[str], reports: str, package: str, *, is_scraped: bool = False
) -> Peer:
    monitor = Monitor(name, [program or name, *arguments], writes=not is_scraped, warm_up_s=2.0)
    return Peer(monitor, reports, "" if program else f"not installed: {package}", is_scraped)


def _bcc(reports: str) -> Peer:
    python = "/usr/bin/python3"  # Debian's package works with Debian's Python only.
    installed, environment = Path("/usr/lib/python3/dist-packages/bcc").exists(), kernel_headers.environment()
    skip_reason = (
        "not installed: python3-bpfcc" if not installed else "" if environment is not None else "no kernel headers"
    )
    monitor = Monitor("BCC", [python, str(_HERE / "bcc_daemon.py")], environment=environment or {}, warm_up_s=2.0)
    return Peer(monitor, reports, skip_reason)
