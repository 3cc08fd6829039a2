"""Fixtures of the tests that need root and the real kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ebpfmon.kernel import features


@pytest.fixture(scope="session", autouse=True)
def permission() -> None:
    """These tests never skip: they are the product."""
    assert os.geteuid() == 0, "tests/kernel needs root"
    features.require_permission(features.look())


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workload, compiled."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    assert compiler, "tests/kernel needs gcc or clang"
    program = tmp_path_factory.mktemp("workload") / "workload"
    source = Path(__file__).with_name("workload.c")
    subprocess.run([compiler, "-O1", "-Wall", "-Werror", "-static", "-pthread", "-o", program, source], check=True)
    return program
