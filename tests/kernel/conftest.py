"""Fixtures of the tests that need root and the real kernel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmon.kernel import features
from tests.kernel import namespaces


@pytest.fixture(scope="session", autouse=True)
def permission() -> None:
    """These tests never skip: they are the product."""
    features.require_permission(features.look())


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workload, compiled."""
    return _compiled("workload", tmp_path_factory)


@pytest.fixture(scope="session")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The traffic program, compiled."""
    return _compiled("traffic", tmp_path_factory)


@pytest.fixture
def pair() -> Iterator[namespaces.Pair]:
    """Two network namespaces with a cable between them."""
    with namespaces.pair() as found:
        yield found


def _compiled(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("clang")
    assert compiler, "tests/kernel needs gcc or clang"
    program, source = tmp_path_factory.mktemp(name) / name, Path(__file__).with_name(f"{name}.c")
    subprocess.run([compiler, "-O1", "-Wall", "-Werror", "-static", "-pthread", "-o", program, source], check=True)
    return program
