"""What plugin authors import. Nothing else in this package is public.

A probe: `Probe`, `Chart`, `Dimension`, `Kind`, `ProbeSettings`. A sink: `Sink`, `SinkSettings`, `Snapshot` and what
it holds. Both: `hookimpl`, `API_VERSION`, and the errors in `ebpfmon.errors`.
"""

from ebpfmon.errors import EbpfmonError, SettingsError, SinkError, SinkGoneError
from ebpfmon.hookspecs import hookimpl
from ebpfmon.model import (
    API_VERSION,
    Chart,
    ChartValues,
    Dimension,
    Kind,
    LoadMode,
    Probe,
    ProbeSettings,
    Sink,
    SinkSettings,
    Snapshot,
    Strategy,
    TableHarvest,
    Value,
    to_json,
)

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "Chart",
    "ChartValues",
    "Dimension",
    "EbpfmonError",
    "Kind",
    "LoadMode",
    "Probe",
    "ProbeSettings",
    "SettingsError",
    "Sink",
    "SinkError",
    "SinkGoneError",
    "SinkSettings",
    "Snapshot",
    "Strategy",
    "TableHarvest",
    "Value",
    "hookimpl",
    "to_json",
]
