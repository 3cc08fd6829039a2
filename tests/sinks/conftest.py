"""Fixtures of the tests with real servers, which tools/setup installs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ebpfmon.kernel import features


@pytest.fixture(scope="session", autouse=True)
def permission() -> None:
    """The daemon is the real one, too."""
    features.require_permission(features.look())


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workload of tests/kernel, compiled."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    assert compiler, "tests/sinks needs gcc or clang"
    program = tmp_path_factory.mktemp("workload") / "workload"
    source = Path(__file__).parents[1] / "kernel" / "workload.c"
    subprocess.run([compiler, "-O1", "-static", "-pthread", "-o", program, source], check=True)
    return program
