"""Fixtures of the tests that need root and the real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmon.kernel import features
from tests.kernel import namespaces
from tests.kernel.programs import program


@pytest.fixture(scope="session", autouse=True)
def permission() -> None:
    """These tests never skip: they are the product."""
    features.require_permission(features.detect())


@pytest.fixture(scope="session")
def workload() -> Path:
    """The workload, compiled."""
    return program("workload")


@pytest.fixture(scope="session")
def traffic() -> Path:
    """The traffic program, compiled."""
    return program("traffic")


@pytest.fixture
def pair() -> Iterator[namespaces.Pair]:
    """Two network namespaces with a cable between them."""
    with namespaces.pair() as found:
        yield found
