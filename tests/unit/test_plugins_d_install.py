"""`ebpfmon install netdata`, into directories of the test's making."""

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
def anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay is tried as who the test is: Netdata's user may be there, and unable to read the test's Python."""
    monkeypatch.setattr(install_netdata, "USER", "nobody-is-called-so")


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    found = tmp_path / DIRECTORIES[1]
    found.mkdir(parents=True)
    return found


def test_the_plugin_is_written_once_and_says_so(tmp_path: Path, plugins: Path) -> None:
    said: list[str] = []
    install(tmp_path, say=said.append)
    assert (plugins / NAME).read_text().count("\n") == 3
    assert stat.S_IMODE((plugins / NAME).stat().st_mode) == 0o755
    assert said[0] == f"{plugins / NAME}: is new"
    (step,) = install(tmp_path, say=said.append)
    assert step.is_done
    assert f"{plugins / NAME}: is as it should be" in said
    assert [p.name for p in plugins.iterdir()] == [NAME]


def test_an_old_one_is_replaced(tmp_path: Path, plugins: Path) -> None:
    (plugins / NAME).write_text("#!/gone/python\n")
    assert plan(tmp_path)[0].what.endswith(": is replaced")
    install(tmp_path, say=lambda line: None)
    assert "relay" in (plugins / NAME).read_text()


def test_a_dry_run_shows_it_and_writes_nothing(tmp_path: Path, plugins: Path) -> None:
    said: list[str] = []
    install(tmp_path, dry_run=True, say=said.append)
    assert said[0].startswith("would write ")
    assert "from ebpfmon_sinks.plugins_d.relay import main" in said[1]
    assert not [*plugins.iterdir()]


def test_the_first_directory_that_is_there_is_taken_or_the_one_that_is_named(tmp_path: Path, plugins: Path) -> None:
    assert plan(tmp_path)[0].path == plugins / NAME
    (tmp_path / DIRECTORIES[0]).mkdir(parents=True)
    assert plan(tmp_path)[0].path == tmp_path / DIRECTORIES[0] / NAME
    assert plan(tmp_path, tmp_path)[0].path == tmp_path / NAME


def test_without_a_netdata_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is Netdata installed"):
        plan(tmp_path)
    with pytest.raises(SettingsError, match="no such directory"):
        plan(tmp_path, tmp_path / "none")


def test_a_python_that_cannot_run_the_relay_is_passed_over(tmp_path: Path, plugins: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    broken.chmod(0o755)
    pythons = [str(tmp_path / "none"), str(broken), "/a path/python", sys.executable]
    assert plan(tmp_path, pythons=pythons)[0].text.startswith(f"#!{sys.executable} -IS\n")
    with pytest.raises(SettingsError) as caught:
        plan(tmp_path, pythons=pythons[:3])
    for why in ("No such file", f"{broken}: no such thing", "has a blank in it", "where everybody may read them"):
        assert why in str(caught.value)


def test_what_cannot_be_written_is_named(tmp_path: Path, plugins: Path) -> None:
    (plugins / NAME).mkdir()
    with pytest.raises(SettingsError, match=f"write '{plugins / NAME}': Is a directory"):
        install(tmp_path, say=lambda line: None)


def test_the_plugin_runs(tmp_path: Path, plugins: Path) -> None:
    install(tmp_path, say=lambda line: None)
    process = subprocess.Popen(
        [plugins / NAME, "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"EBPFMON_SOCKET": str(tmp_path / "none"), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    with process:
        assert process.stderr
        assert b"waits for ebpfmon" in process.stderr.readline()
        process.communicate(b"QUIT\n")
    assert process.returncode == 0
