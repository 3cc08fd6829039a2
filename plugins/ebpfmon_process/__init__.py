"""The process probe: counts what processes do with files, and how tasks are created and exit."""

from collections.abc import Sequence

from ebpfmon import Probe, hookimpl
from ebpfmon_process.charts import CHARTS, COLUMNS
from ebpfmon_process.events import EVENTS

EBPFMON_API_VERSION = 2


@hookimpl
def ebpfmon_register_probes() -> Sequence[Probe]:
    return [Probe(name="process", package=__name__, object="process", charts=CHARTS, events=EVENTS, columns=COLUMNS)]
