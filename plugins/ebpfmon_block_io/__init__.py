"""The block I/O probe: counts bytes, requests, errors and latency of each disk, and requests in flight."""

from collections.abc import Sequence

from ebpfmon import Probe, hookimpl
from ebpfmon_block_io.charts import CHARTS, COLUMNS
from ebpfmon_block_io.disks import BlockIoSettings, setup
from ebpfmon_block_io.events import EVENTS

EBPFMON_API_VERSION = 2


@hookimpl
def ebpfmon_register_probes() -> Sequence[Probe]:
    return [
        Probe(
            name="block_io",
            package=__name__,
            object="block_io",
            charts=CHARTS,
            columns=COLUMNS,
            events=EVENTS,
            settings=BlockIoSettings,
            setup=setup,
        )
    ]
