"""What authors of plugins test with: made-up intervals, a clock, a sink that records, checks, and the running kernel.

Public, like what `ebpfmon` exports. Nothing here needs pytest but `ebpfmon.testing.fixtures`:

    pytest_plugins = ["ebpfmon.testing.fixtures"]  # in conftest.py
"""

from ebpfmon.testing.clock import FakeClock
from ebpfmon.testing.intervals import PROCESS_IDENTITY, chart, data, keyed_table, process_table, snapshot, view
from ebpfmon.testing.kernel import Counting, load_probe, skip_reason
from ebpfmon.testing.plugins import check_plugin
from ebpfmon.testing.running import RunningDaemon
from ebpfmon.testing.sinks import RecordingSettings, RecordingSink, deliver

__all__ = [
    "PROCESS_IDENTITY",
    "Counting",
    "FakeClock",
    "RecordingSettings",
    "RecordingSink",
    "RunningDaemon",
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
