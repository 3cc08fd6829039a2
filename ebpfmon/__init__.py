"""The public API, for plugin authors and scripts.

Probes use `Probe`, `Event`, `Candidate`, `Chart`, `Dimension`, `Buckets`, `Kind`, `Column`, `ProbeSettings`, `Setup`
and `LabelSource`. Sinks use `Sink`, `SinkSettings`, `Snapshot` and the classes in it, `to_json`, `Aggregator`,
`printable` and `unique_names`. Both use `hookimpl`, `API_VERSION` and the errors. `ebpfmon.testing` has helpers for
tests. All other modules are private.
"""

TYPE_CHECKING = False  # as typing's, but typing need not be imported
if TYPE_CHECKING:
    from ebpfmon.atomic import append_record, replace_file
    from ebpfmon.descriptors import LineWriter, reopen_nonblocking
    from ebpfmon.errors import EbpfmonError, KernelError, PluginError, SettingsError, SinkError, SinkGoneError
    from ebpfmon.files import read_text
    from ebpfmon.model import (
        API_VERSION,
        PROCESS_FIELDS,
        VALUE,
        Buckets,
        Candidate,
        Chart,
        ChartData,
        ChartJson,
        Column,
        Dimension,
        Event,
        Histogram,
        Kind,
        LabelSource,
        LoadMode,
        Probe,
        ProbeSettings,
        Role,
        RowGroups,
        Rows,
        Series,
        SeriesIndex,
        Setup,
        Sink,
        SinkSettings,
        Snapshot,
        SnapshotJson,
        TableHarvest,
        TableView,
        chart_to_json,
        encode_json,
        snapshot_schema,
        to_json,
    )
    from ebpfmon.pipeline.aggregate import Aggregator
    from ebpfmon.plugins.hookspecs import hookimpl
    from ebpfmon.resources import file_resources, port_resources, standard_stream, stream_resources
    from ebpfmon.text import printable, unique_names
    from ebpfmon.threads import Pool, submit_once

__version__ = "0.2.0.dev0"

__all__ = [
    "API_VERSION",
    "PROCESS_FIELDS",
    "VALUE",
    "Aggregator",
    "Buckets",
    "Candidate",
    "Chart",
    "ChartData",
    "ChartJson",
    "Column",
    "Dimension",
    "EbpfmonError",
    "Event",
    "Histogram",
    "KernelError",
    "Kind",
    "LabelSource",
    "LineWriter",
    "LoadMode",
    "PluginError",
    "Pool",
    "Probe",
    "ProbeSettings",
    "Role",
    "RowGroups",
    "Rows",
    "Series",
    "SeriesIndex",
    "SettingsError",
    "Setup",
    "Sink",
    "SinkError",
    "SinkGoneError",
    "SinkSettings",
    "Snapshot",
    "SnapshotJson",
    "TableHarvest",
    "TableView",
    "append_record",
    "chart_to_json",
    "encode_json",
    "file_resources",
    "hookimpl",
    "port_resources",
    "printable",
    "read_text",
    "reopen_nonblocking",
    "replace_file",
    "snapshot_schema",
    "standard_stream",
    "stream_resources",
    "submit_once",
    "to_json",
    "unique_names",
]


_MODULES = {
    "Aggregator": "pipeline.aggregate",
    "EbpfmonError": "errors",
    "KernelError": "errors",
    "LineWriter": "descriptors",
    "PluginError": "errors",
    "Pool": "threads",
    "SettingsError": "errors",
    "SinkError": "errors",
    "SinkGoneError": "errors",
    "append_record": "atomic",
    "file_resources": "resources",
    "hookimpl": "plugins.hookspecs",
    "port_resources": "resources",
    "printable": "text",
    "read_text": "files",
    "reopen_nonblocking": "descriptors",
    "replace_file": "atomic",
    "standard_stream": "resources",
    "stream_resources": "resources",
    "submit_once": "threads",
    "unique_names": "text",
}
"""The module of each name that is not in `ebpfmon.model`."""


def __getattr__(name: str) -> object:
    """Import a public name on first use.

    The command line must prepare the process before it imports anything, such as limit numpy's threads.
    """
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"ebpfmon.{_MODULES.get(name, 'model')}"), name)
    return value


def __dir__() -> list[str]:
    """Return all names, for completion."""
    return sorted({*globals(), *__all__})
