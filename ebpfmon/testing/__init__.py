"""Helpers for the tests of plugins: intervals, a clock, a recording sink, validation, and probes in the running kernel.

These names are public, like those that `ebpfmon` exports. Only `ebpfmon.testing.fixtures` needs pytest:

    pytest_plugins = ["ebpfmon.testing.fixtures"]  # in conftest.py
"""

from ebpfmon.testing.clock import FakeClock
from ebpfmon.testing.intervals import PROCESS_IDENTITY, chart, data, keyed_table, process_table, snapshot, view
from ebpfmon.testing.kernel import RunningProbe, load_probe, skip_reason
from ebpfmon.testing.plugins import check_plugin
from ebpfmon.testing.running import RunningDaemon
from ebpfmon.testing.sinks import RecordingSettings, RecordingSink, deliver

__all__ = [
    "PROCESS_IDENTITY",
    "FakeClock",
    "RecordingSettings",
    "RecordingSink",
    "RunningDaemon",
    "RunningProbe",
    "chart",
    "check_plugin",
    "data",
    "deliver",
    "keyed_table",
    "load_probe",
    "process_table",
    "skip_reason",
    "snapshot",
    "view",
]
