"""The network viewer: who talks to whom over TCP and UDP, at which port, and how much."""

from collections.abc import Sequence

from ebpfmon import Probe, hookimpl
from ebpfmon_network_viewer.charts import CHARTS
from ebpfmon_network_viewer.settings import NetworkViewerSettings, setup

EBPFMON_API_VERSION = 1


@hookimpl
def ebpfmon_register_probes() -> Sequence[Probe]:
    return [
        Probe(
            name="network_viewer",
            package=__name__,
            object="network_viewer",
            charts=CHARTS,
            settings=NetworkViewerSettings,
            setup=setup,
        )
    ]
