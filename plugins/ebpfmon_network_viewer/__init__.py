"""The network viewer: counts who talks to whom over TCP and UDP, on which port, and how much."""

from collections.abc import Sequence

from ebpfmon import Probe, hookimpl
from ebpfmon_network_viewer.charts import CHARTS, COLUMNS
from ebpfmon_network_viewer.events import EVENTS
from ebpfmon_network_viewer.settings import NetworkViewerSettings, setup

EBPFMON_API_VERSION = 2


@hookimpl
def ebpfmon_register_probes() -> Sequence[Probe]:
    return [
        Probe(
            name="network_viewer",
            package=__name__,
            object="network_viewer",
            charts=CHARTS,
            columns=COLUMNS,
            events=EVENTS,
            settings=NetworkViewerSettings,
            setup=setup,
        )
    ]
