"""The system calls probe: counts each system call, its latency, its errors, and the threads that are in it."""

from collections.abc import Sequence

from ebpfmon import Probe, hookimpl
from ebpfmon_syscalls.calls import SyscallsSettings, setup
from ebpfmon_syscalls.charts import CHARTS, COLUMNS
from ebpfmon_syscalls.events import EVENTS

EBPFMON_API_VERSION = 2


@hookimpl
def ebpfmon_register_probes() -> Sequence[Probe]:
    return [
        Probe(
            name="syscalls",
            package=__name__,
            object="syscalls",
            charts=CHARTS,
            columns=COLUMNS,
            events=EVENTS,
            settings=SyscallsSettings,
            setup=setup,
        )
    ]
