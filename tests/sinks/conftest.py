"""Tests against the real servers install them, and take minutes: they run where $EBPFMON_SERVERS is set."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("EBPFMON_SERVERS") else ["test_*"]
