"""Fixtures that several unit tests share, and the settings of Hypothesis.

Examples have no deadline, because the machine may be busy and pytest limits whole tests. In CI the examples are the
same in every run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.unit.top_terminal import INITIAL_MODES, Terminal

settings.register_profile("ebpfmon", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("ebpfmon")


@pytest.fixture(autouse=True)
def ctrl_c_ends_the_tests() -> Iterator[None]:
    """Bring Python's handler of Ctrl-C back, which the command line replaces."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Yield a terminal in its initial state."""
    terminal = Terminal()
    terminal.modes |= INITIAL_MODES
    yield terminal
    terminal.close()
