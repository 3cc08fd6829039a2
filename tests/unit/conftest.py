"""Fixtures of several unit tests, and Hypothesis without a limit for each example: the machine may be busy, and pytest
has a limit for each test. In CI it tries the same examples each time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.unit.top_terminal import AS_BEFORE, Terminal

settings.register_profile("ebpfmon", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("ebpfmon")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal that nobody has taken over."""
    made = Terminal()
    made.modes |= AS_BEFORE
    yield made
    made.close()
