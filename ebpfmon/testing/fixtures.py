"""Fixtures for pytest. Enable them with `pytest_plugins = ["ebpfmon.testing.fixtures"]` in conftest.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ebpfmon.model import Probe
from ebpfmon.testing.clock import FakeClock
from ebpfmon.testing.kernel import RunningProbe, load_probe, skip_reason

Load = Callable[..., RunningProbe]


@pytest.fixture
def counting() -> Iterator[Load]:
    """Return a function like `load_probe`, whose probes are closed when the test ends.

    The test is skipped, with the reason, if no probe can be loaded here.
    """
    if reason := skip_reason():
        pytest.skip(reason)
    with ExitStack() as closing:

        def load(probe: Probe, *arguments: Any, **options: Any) -> RunningProbe:
            return closing.enter_context(load_probe(probe, *arguments, **options))

        yield load


@pytest.fixture
def fake_clock() -> FakeClock:
    """Return a clock that the test controls."""
    return FakeClock()
