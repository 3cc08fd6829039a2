"""`ebpfmon install systemd`, and whether systemd accepts the unit."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import tomli

from ebpfmon import config
from ebpfmon.cli import main as cli
from ebpfmon.errors import SettingsError
from ebpfmon.install.systemd import SETTINGS, SHIPPED, UNIT, install_systemd, installer
from ebpfmon.kernel import capabilities
from ebpfmon.plugins import registry

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "settings.md").read_text()
NEXT = "next: systemctl daemon-reload; systemctl enable --now ebpfmon; systemctl status ebpfmon"


@pytest.fixture
def program(tmp_path: Path) -> str:
    """Install a fake `ebpfmon`, and return its path."""
    path = tmp_path / "bin" / "ebpfmon"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def about_files(lines: list[str], root: Path) -> list[str]:
    """Return the lines about files, with paths relative to the root."""
    return [line.replace(f"{root}/", "") for line in lines if str(root) in line]


def test_the_unit_and_the_settings_are_written_only_once(root: Path, program: str) -> None:
    lines = install_systemd(root, program, dry_run=False)
    assert about_files(lines, root) == [f"created: {UNIT}", f"created: {SETTINGS}"]
    assert lines[-1] == NEXT
    assert f"\nExecStart={program} run\n" in (root / UNIT).read_text()
    assert "@" not in re.sub(r"@(system-service|keyring)", "", (root / UNIT).read_text())
    assert [(root / f).stat().st_mode & 0o777 for f in (UNIT, SETTINGS)] == [0o644] * 2
    assert sorted(p.name for p in root.rglob("*") if p.is_file()) == [UNIT.name, SETTINGS.name]
    again = about_files(install_systemd(root, program, dry_run=False), root)
    assert again == [f"unchanged: {UNIT}", f"unchanged: {SETTINGS}"]


def test_existing_settings_are_kept_and_an_old_unit_is_replaced(root: Path, program: str) -> None:
    install_systemd(root, program, dry_run=False)
    (root / SETTINGS).write_text("[ebpfmon]\ninterval = 3\n")
    (root / UNIT).write_text("old")
    lines = about_files(install_systemd(root, program, dry_run=False), root)
    assert lines == [f"replaced: {UNIT}", f"kept: {SETTINGS}"]
    assert (root / SETTINGS).read_text() == "[ebpfmon]\ninterval = 3\n"
    assert "ExecStart" in (root / UNIT).read_text()


def test_a_dry_run_writes_nothing(root: Path, program: str) -> None:
    lines = install_systemd(root, program, dry_run=True)
    assert about_files(lines, root) == [f"would be created: {UNIT}", f"would be created: {SETTINGS}"]
    assert not root.exists()


def test_a_missing_program_or_one_that_systemd_cannot_run_is_refused(root: Path, program: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="; install ebpfmon with pip first"):
        install_systemd(root, str(tmp_path / "none"), dry_run=False)
    for name in ("my ebpfmon", "%h", "$HOME", 'a"b'):
        path = Path(program).with_name(name)
        shutil.copy(program, path)
        with pytest.raises(SettingsError, match="systemd cannot run"):
            install_systemd(root, str(path), dry_run=False)
    assert not root.exists()


def test_a_file_that_cannot_be_written_is_an_error_of_one_line(root: Path, program: str) -> None:
    root.write_text("a file")
    with pytest.raises(SettingsError, match=f"install systemd: cannot write '{root / UNIT}': Not a directory"):
        install_systemd(root, program, dry_run=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a directory")
def test_a_directory_that_root_cannot_enter_without_capabilities_is_named(root: Path, program: str) -> None:
    home = Path(program).parent
    os.chown(home, 65534, 65534)
    assert not any(str(home) in line for line in install_systemd(root, program, dry_run=True))
    home.chmod(0o700)
    assert any(f"only its owner may enter '{home}'" in line for line in install_systemd(root, program, True))


def test_the_installed_settings_are_those_on_the_settings_page_with_all_defaults() -> None:
    text = (SHIPPED / SETTINGS.name).read_text()
    sample = next(s for s in re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S) if "load_mode" in s)
    assert text.endswith(f"\n\n{sample}"), (
        "ebpfmon/install/files/ebpfmon.toml: copy the settings from docs/reference/settings.md"
    )
    found = registry.discover()
    shown, defaults = (config.validate(raw, "x", found) for raw in (tomli.loads(text), {}))
    plain = [msgspec.to_builtins(settings) for settings in (shown, defaults)]
    for settings in plain:
        del settings["sinks"][0]["name"]  # by default a sink has the name of its type
    assert plain[0] == plain[1]


def test_the_unit_has_only_capabilities_that_exist() -> None:
    bounding = re.search(r"^CapabilityBoundingSet=(.+)$", (SHIPPED / UNIT.name).read_text(), re.M)
    assert bounding
    names = {name.removeprefix("CAP_").lower() for name in bounding[1].split()}
    assert {"bpf", "perfmon"} <= names <= set(capabilities.NAMES)
    assert "sys_admin" not in names


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(root: Path, program: str) -> None:
    install_systemd(root, program, dry_run=False)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(root / UNIT)], capture_output=True, text=True, timeout=60
    )
    about = [line for line in (done.stdout + done.stderr).splitlines() if "ebpfmon" in line]
    assert (done.returncode, about) == (0, [])


@pytest.mark.parametrize("called", ["ebpfmon", "__main__.py"])
def test_the_command_line_installs_itself(
    root: Path, program: str, called: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [program if called == "ebpfmon" else called])
    monkeypatch.setattr("ebpfmon.cli.install.sysconfig.get_path", lambda name: str(Path(program).parent))
    assert cli.main(["install", "systemd", "--prefix", str(root)]) == 0
    assert f"ExecStart={program} run\n" in (root / UNIT).read_text()
    assert capsys.readouterr().out.splitlines()[-1] == NEXT


def test_errors_of_the_installers_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["install", "netdata", "--prefix", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("ebpfmon: install netdata: found none of ")
    assert cli.main(["install", "systemd", "--directory", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "ebpfmon: install systemd: --directory is only for netdata\n"


def test_the_installer_for_netdata_gets_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def install(prefix: Path, directory: Path | None, *, dry_run: bool) -> None:
        given.extend((prefix, directory, dry_run))

    monkeypatch.setattr("ebpfmon_sinks.plugins_d.install.install", install)
    assert cli.main(["install", "netdata", "--dry-run", "--directory", str(tmp_path)]) == 0
    assert given == [Path("/"), tmp_path, True]


@pytest.mark.parametrize(
    ("error", "text"),
    [(SystemExit(7), "SystemExit: 7"), (KeyboardInterrupt(), "KeyboardInterrupt"), (ValueError("x"), "ValueError: x")],
)
def test_an_installer_that_cannot_be_imported_is_an_error_of_one_line_whatever_it_raises(
    error: BaseException, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: object) -> object:
        raise error

    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", load)
    with pytest.raises(SettingsError) as caught:
        installer("netdata")
    assert str(caught.value) == f"install 'netdata': {text}"


HOSTILE = "import os; os.write(2, b'hostile code'); os._exit(66)"
SCRIPT = f"#!{sys.executable}\nfrom ebpfmon.cli.main import program\nprogram()\n"
"""The program that pip installs."""


@pytest.mark.parametrize("how", ["unit", "command", "python -P -m"])
def test_no_module_is_imported_from_the_current_directory(root: Path, tmp_path: Path, how: str) -> None:
    here, bin_ = tmp_path / "here", tmp_path / "bin"
    here.mkdir()
    bin_.mkdir()
    program = bin_ / "ebpfmon"
    program.write_text(SCRIPT)
    program.chmod(0o755)
    command, environment = [str(program)], {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    folders = [here]
    if how == "unit":
        install_systemd(root, str(program), dry_run=False)
        lines = dict(line.split("=", 1) for line in (root / UNIT).read_text().splitlines() if "=" in line)
        environment |= dict([lines["Environment"].split("=", 1)])
        command = lines["ExecStart"].split()[:1]
        folders.append(bin_)  # Python would look in the directory of the script
    elif how == "python -P -m":
        command = [sys.executable, "-P", "-m", "ebpfmon"]
    for folder in folders:
        for name in ("msgspec", "numpy", "signal", "enum", "typing", "pluggy", "ebpfmon"):
            (folder / f"{name}.py").write_text(HOSTILE)
    done = subprocess.run(
        [*command, "config", "check", "--config", "/dev/null"],
        cwd=here, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "/dev/null: OK\n", "")
