"""`ebpfmon install netdata`, with directories that the test creates."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ebpfmon import SettingsError
from ebpfmon_sinks.plugins_d import install as install_netdata
from ebpfmon_sinks.plugins_d.install import DIRECTORIES, NAME, install, plan


@pytest.fixture(autouse=True)
def same_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try the relay as the user who runs the test: Netdata's user may not be able to read the test's Python."""
    monkeypatch.setattr(install_netdata, "USER", "no-such-user")


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    directory = tmp_path / DIRECTORIES[1]
    directory.mkdir(parents=True)
    return directory


def test_the_plugin_is_written_once_and_named(tmp_path: Path, plugins: Path) -> None:
    lines: list[str] = []
    install(tmp_path, write_line=lines.append)
    assert (plugins / NAME).read_text().count("\n") == 3
    assert stat.S_IMODE((plugins / NAME).stat().st_mode) == 0o755
    assert lines[0] == f"created: {plugins / NAME}"
    (step,) = install(tmp_path, write_line=lines.append)
    assert step.is_done
    assert f"unchanged: {plugins / NAME}" in lines
    assert [p.name for p in plugins.iterdir()] == [NAME]


def test_an_old_plugin_is_replaced(tmp_path: Path, plugins: Path) -> None:
    (plugins / NAME).write_text("#!/gone/python\n")
    assert plan(tmp_path)[0].action == "replaced"
    install(tmp_path, write_line=lambda line: None)
    assert "relay" in (plugins / NAME).read_text()


def test_a_dry_run_shows_the_plugin_and_writes_nothing(tmp_path: Path, plugins: Path) -> None:
    lines: list[str] = []
    install(tmp_path, dry_run=True, write_line=lines.append)
    assert lines[0] == f"would be created: {plugins / NAME}"
    assert [line.startswith("from ebpfmon_sinks.plugins_d.relay import main") for line in lines[1:4]] == [
        False,
        False,
        True,
    ]
    assert not [*plugins.iterdir()]


def test_the_first_directory_that_exists_is_used_unless_one_is_given(tmp_path: Path, plugins: Path) -> None:
    assert plan(tmp_path)[0].path == plugins / NAME
    (tmp_path / DIRECTORIES[0]).mkdir(parents=True)
    assert plan(tmp_path)[0].path == tmp_path / DIRECTORIES[0] / NAME
    assert plan(tmp_path, tmp_path)[0].path == tmp_path / NAME


def test_without_a_plugins_directory_the_installation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="install Netdata, or give its plugins directory"):
        plan(tmp_path)
    with pytest.raises(SettingsError, match="no directory"):
        plan(tmp_path, tmp_path / "none")


def test_a_python_that_cannot_run_the_relay_is_skipped(tmp_path: Path, plugins: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    broken.chmod(0o755)
    pythons = [str(tmp_path / "none"), str(broken), "/a path/python", sys.executable]
    assert plan(tmp_path, pythons=pythons)[0].text.startswith(f"#!{sys.executable} -IS\n")
    with pytest.raises(SettingsError) as caught:
        plan(tmp_path, pythons=pythons[:3])
    for reason in ("No such file", f"{broken}: no such thing", "has a space in it", "where every user may read them"):
        assert reason in str(caught.value)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, plugins: Path) -> None:
    (plugins / NAME).mkdir()
    with pytest.raises(SettingsError, match=f"cannot write '{plugins / NAME}': Is a directory"):
        install(tmp_path, write_line=lambda line: None)


def test_the_plugin_runs(tmp_path: Path, plugins: Path) -> None:
    install(tmp_path, write_line=lambda line: None)
    process = subprocess.Popen(
        [plugins / NAME, "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"EBPFMON_SOCKET": str(tmp_path / "none"), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    with process:
        assert process.stderr
        assert b"waiting for ebpfmon" in process.stderr.readline()
        process.communicate(b"QUIT\n")
    assert process.returncode == 0
