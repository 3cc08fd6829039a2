"""Fixtures for the tests with real servers, which tools/setup installs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebpfmon.kernel import features
from tests.kernel.programs import program


@pytest.fixture(scope="session", autouse=True)
def permission() -> None:
    """Require the permissions that the real daemon needs."""
    features.require_permission(features.detect())


@pytest.fixture(scope="session")
def workload() -> Path:
    """Return the path of the compiled workload of tests/kernel."""
    return program("workload")
