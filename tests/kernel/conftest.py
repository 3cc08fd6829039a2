"""Fixtures for tests that need root and the real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmon.kernel import features
from tests.kernel import namespaces
from tests.kernel.programs import program


@pytest.fixture(scope="session", autouse=True)
def permission() -> None:
    """Fail at once, instead of skipping all tests, if BPF programs may not be loaded."""
    features.require_permission(features.detect())


@pytest.fixture(scope="session")
def workload() -> Path:
    """The compiled workload."""
    return program("workload")


@pytest.fixture(scope="session")
def traffic() -> Path:
    """The compiled traffic program."""
    return program("traffic")


@pytest.fixture(scope="session")
def changes() -> Path:
    """The compiled program that changes its name, its user and its cgroup."""
    return program("changes")


@pytest.fixture(scope="session")
def sockets() -> Path:
    """The compiled program that uses sockets in unusual ways."""
    return program("sockets")


@pytest.fixture(scope="session")
def uring() -> Path:
    """The compiled program that makes requests to io_uring."""
    return program("uring")


@pytest.fixture
def pair() -> Iterator[namespaces.Pair]:
    """Two connected network namespaces."""
    with namespaces.pair() as made:
        yield made
