"""The monitors that are compared, as they are started."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import headers
from benchmarks.watch import Monitor

_HERE = Path(__file__).parent
_NETDATA = ("/usr/lib/netdata/plugins.d", "/usr/libexec/netdata/plugins.d")
APPS_PLUGIN = "apps.plugin (Netdata)"
_COUNTED = "0,1,2,3,17,18,19,20,87,257,263,295,296,327,328,436,437"  # x86-64's numbers of what ebpfmon counts
BPFTRACE = (
    "tracepoint:raw_syscalls:sys_exit / "
    + " || ".join(f"args->id == {n}" for n in _COUNTED.split(","))
    + " / { @[pid, args->id] = count(); } interval:s:1 { print(@); clear(@); }"
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another monitor to compare with. `skip_reason` says why it cannot run here; empty if it can."""

    monitor: Monitor
    sees: str
    skip_reason: str = ""
    is_asked: bool = False
    """It does nothing by itself: see `at`."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.monitor.name

    def at(self, port: int, configuration: Path) -> Peer:
        """Where it is asked, and what it is told: these stand for PORT and FILE in its command."""
        command = [c.replace("PORT", str(port)).replace("FILE", str(configuration)) for c in self.monitor.command]
        return replace(self, monitor=replace(self.monitor, command=command))


def ebpfmon(*arguments: str, name: str = "ebpfmon") -> Monitor:
    """`ebpfmon run`, with its JSON on standard output."""
    return Monitor(name, [sys.executable, "-m", "ebpfmon", "run", "--json", *arguments])


def psutil(*arguments: str, name: str = "psutil daemon") -> Monitor:
    """The baseline."""
    return Monitor(name, [sys.executable, str(_HERE / "psutil_daemon.py"), *arguments])


def all_of_them() -> list[Peer]:
    """In the order in which they are shown."""
    apps, ebpf = _found_in(_NETDATA, "apps.plugin"), _found_in(_NETDATA, "ebpf.plugin")
    glances = Path(sys.executable).with_name("glances")
    calls = "calls by process"
    return [
        Peer(ebpfmon(), "calls, bytes, tasks, connections by process"),
        Peer(ebpfmon("--load-mode", "return", name="ebpfmon, return"), "... and errors"),
        Peer(psutil(), "I/O, threads, descriptors of those that live"),
        _installed("bpftrace", "bpftrace", ["-q", "-e", BPFTRACE], calls, "bpftrace"),
        _bcc(calls),
        _peer(APPS_PLUGIN, apps, ["1"], "CPU, memory, I/O, descriptors by group", "netdata-core"),
        _peer("apps.plugin, without files", apps, ["1", "without-files"], "... and no descriptors", "netdata-core"),
        Peer(
            Monitor("ebpf.plugin (Netdata)", [ebpf or "ebpf.plugin", "1"]), "calls by group", "" if ebpf else
            "Debian's netdata-core has none; its programs' cost in instructions is in the benchmark 'instructions'",
        ),
        _installed(
            "process-exporter", "prometheus-process-exporter",
            ["-web.listen-address", "127.0.0.1:PORT", "-config.path", "FILE"], "CPU, memory, I/O by name",
            "prometheus-process-exporter", is_asked=True,
        ),
        _peer("glances", str(glances) if glances.exists() else None, ["--stdout", "cpu.user", "-t", "1"],
              "a screen of everything", "glances (PyPI)"),
    ]  # fmt: skip


def _found_in(directories: tuple[str, ...], name: str) -> str | None:
    return next((str(path) for path in (Path(d) / name for d in directories) if path.exists()), None)


def _installed(
    name: str, program: str, arguments: list[str], sees: str, package: str, *, is_asked: bool = False
) -> Peer:
    return _peer(name, shutil.which(program), arguments, sees, package, is_asked=is_asked)


def _peer(
    name: str, program: str | None, arguments: list[str], sees: str, package: str, *, is_asked: bool = False
) -> Peer:
    monitor = Monitor(name, [program or name, *arguments], writes=not is_asked, settle_s=2.0)
    return Peer(monitor, sees, "" if program else f"not installed: {package}", is_asked)


def _bcc(sees: str) -> Peer:
    python = "/usr/bin/python3"  # the one that Debian's package is for
    there, environment = Path("/usr/lib/python3/dist-packages/bcc").exists(), headers.environment()
    skip_reason = (
        "not installed: python3-bpfcc" if not there else "" if environment is not None else "no kernel headers"
    )
    monitor = Monitor("BCC", [python, str(_HERE / "bcc_daemon.py")], environment=environment or {}, settle_s=2.0)
    return Peer(monitor, sees, skip_reason)
