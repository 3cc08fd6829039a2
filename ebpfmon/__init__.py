"""What plugin authors import. Nothing else in this package is public.

A probe: `Probe`, `Chart`, `Dimension`, `Buckets`, `Kind`, `ProbeSettings`, `Setup`, `Keys`. A sink: `Sink`,
`SinkSettings`, `Snapshot` and what it holds, `histograms`. Both: `hookimpl`, `API_VERSION`, and the errors. What
authors test with is in `ebpfmon.testing`.
"""

from ebpfmon.errors import EbpfmonError, KernelError, PluginError, SettingsError, SinkError, SinkGoneError
from ebpfmon.model.everything import (
    API_VERSION,
    Buckets,
    Chart,
    ChartValues,
    Dimension,
    Keys,
    Kind,
    LoadMode,
    Owners,
    Probe,
    ProbeSettings,
    Scope,
    Setup,
    Sink,
    SinkSettings,
    Snapshot,
    Strategy,
    TableHarvest,
    Value,
    to_json,
)
from ebpfmon.model.histogram import Histogram, histograms
from ebpfmon.plugins.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "Buckets",
    "Chart",
    "ChartValues",
    "Dimension",
    "EbpfmonError",
    "Histogram",
    "KernelError",
    "Keys",
    "Kind",
    "LoadMode",
    "Owners",
    "PluginError",
    "Probe",
    "ProbeSettings",
    "Scope",
    "SettingsError",
    "Setup",
    "Sink",
    "SinkError",
    "SinkGoneError",
    "SinkSettings",
    "Snapshot",
    "Strategy",
    "TableHarvest",
    "Value",
    "histograms",
    "hookimpl",
    "to_json",
]
