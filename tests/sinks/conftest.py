"""Fixtures of the tests with real servers, which tools/setup installs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebpfmon.kernel import features
from tests.kernel.programs import program


@pytest.fixture(scope="session", autouse=True)
def permission() -> None:
    """The daemon is the real one, too."""
    features.require_permission(features.detect())


@pytest.fixture(scope="session")
def workload() -> Path:
    """The workload of tests/kernel, compiled."""
    return program("workload")
