"""Fixtures of the tests with real servers, which tools/setup installs."""

from __future__ import annotations

import pytest

from ebpfmon.kernel import features


@pytest.fixture(scope="session", autouse=True)
def permission() -> None:
    """The daemon is the real one, too."""
    features.require_permission(features.look())
