"""The data that travels through ebpfmon: charts, series, snapshots, probes and sinks. No I/O."""

from ebpfmon.model.chart import KINDS, VALUE, Buckets, Chart, Dimension, Kind
from ebpfmon.model.event import Candidate, Event, LoadMode
from ebpfmon.model.json import ChartJson, SnapshotJson, chart_to_json, encode_json, snapshot_schema, to_json
from ebpfmon.model.probe import Loader, Probe, ProbeSettings, Setup
from ebpfmon.model.series import ChartData, Histogram, Role, Series, SeriesIndex
from ebpfmon.model.sink import Sink, SinkSettings, tag_of
from ebpfmon.model.snapshot import Snapshot, TableView
from ebpfmon.model.table import PROCESS_FIELDS, Column, Harvest, LabelSource, RowGroups, Rows, TableHarvest

API_VERSION = 2
"""The version of everything that `ebpfmon` exports. A plugin states the version that it was written for."""

__all__ = [
    "API_VERSION",
    "KINDS",
    "PROCESS_FIELDS",
    "VALUE",
    "Buckets",
    "Candidate",
    "Chart",
    "ChartData",
    "ChartJson",
    "Column",
    "Dimension",
    "Event",
    "Harvest",
    "Histogram",
    "Kind",
    "LabelSource",
    "LoadMode",
    "Loader",
    "Probe",
    "ProbeSettings",
    "Role",
    "RowGroups",
    "Rows",
    "Series",
    "SeriesIndex",
    "Setup",
    "Sink",
    "SinkSettings",
    "Snapshot",
    "SnapshotJson",
    "TableHarvest",
    "TableView",
    "chart_to_json",
    "encode_json",
    "snapshot_schema",
    "tag_of",
    "to_json",
]  # fmt: skip
