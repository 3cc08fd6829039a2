"""The OOM and signals probe: counts processes that die by a signal, and those that the OOM killer chose."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from ebpfmon import Chart, Column, Dimension, Probe, ProbeSettings, hookimpl
from ebpfmon_oom_and_signals.events import EVENTS

EBPFMON_API_VERSION = 2
SIGNALS = (
    "SIGRT", "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1",
    "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP",
    "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR",
    "SIGSYS",
)  # fmt: skip
"""Names by number, on x86-64 and aarch64. Number 0 stands for the real-time signals."""
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS")
SHOWN = (*CRASHES, "SIGKILL", "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGPIPE", "SIGALRM")
"""Signals with a dimension of their own. All others, real-time signals included, are in `other`."""


class OomAndSignalsSettings(ProbeSettings, frozen=True):
    """Settings in `[plugins.oom_and_signals]`."""

    enabled: bool = False
    table_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 1024


def _fields(*names: str) -> tuple[str, ...]:
    return tuple(f"died_by_{SIGNALS.index(name)}" for name in names)


def _grouped(priority: int, id_: str, title: str, *fields: str) -> Chart:
    return Chart(
        id=id_, title=title, units="processes/s", family="ebpf signals", priority=priority, grouped=True,
        dimensions=(Dimension.value(*fields),),
    )  # fmt: skip


CHARTS = (
    Chart(
        id="ebpf.signal_deaths", title="Processes that died by a signal", units="processes/s", family="Signals",
        priority=21400,
        dimensions=(
            *(Dimension(name.lower(), name, _fields(name)) for name in SHOWN),
            Dimension("other", "other", _fields(*(name for name in SIGNALS if name not in SHOWN))),
        ),
    ),
    Chart(
        id="ebpf.oom", title="Out of memory", units="processes/s", family="Signals", priority=21401,
        dimensions=(
            Dimension("kills", "killed", ("oom_kills",)),
            Dimension("victims", "chosen", ("oom_victims",)),
        ),
    ),
    _grouped(20400, "signal_deaths", "Processes that died by a signal", "deaths"),
    _grouped(20401, "signal_crashes", "Processes that crashed", *_fields(*CRASHES)),
    _grouped(20402, "signal_kills", "Processes that died by SIGKILL", *_fields("SIGKILL")),
    _grouped(20403, "signal_segfaults", "Processes that died by SIGSEGV", *_fields("SIGSEGV")),
    _grouped(20404, "signal_aborts", "Processes that died by SIGABRT", *_fields("SIGABRT")),
    _grouped(20405, "signal_terminations", "Processes that died by SIGTERM", *_fields("SIGTERM")),
    _grouped(20406, "oom_kills", "Processes that the OOM killer killed", "oom_kills"),
    _grouped(20407, "oom_causes", "Processes that asked for memory that there was not", "oom_victims"),
)  # fmt: skip

COLUMNS = (
    Column(id="deaths", header="DEATHS", fields=("deaths",), units="processes/s", rank=20),
    Column(id="oom", header="OOM", fields=("oom_kills",), units="processes/s", rank=21),
)


@hookimpl
def ebpfmon_register_probes() -> Sequence[Probe]:
    return [
        Probe(
            name="oom_and_signals",
            package=__name__,
            object="oom_and_signals",
            charts=CHARTS,
            columns=COLUMNS,
            events=EVENTS,
            settings=OomAndSignalsSettings,
        )
    ]
