"""`ebpfmon plugin new` writes a package and overwrites nothing. `tests/kernel` shows that the package works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tomli

from ebpfmon.cli import main as cli
from ebpfmon.plugins import scaffold


@pytest.mark.parametrize("what", ["probe", "sink"])
def test_a_package_is_written_with_its_name_and_listed(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plugin", "new", what, "my_naps"]) == 0
    *written, then = capsys.readouterr().out.splitlines()
    assert then.startswith("then: cd ebpfmon_my_naps; pip install -e '.[test]'; pytest; ebpfmon run")
    there = [str(p.relative_to(tmp_path)) for p in (tmp_path / "ebpfmon_my_naps").rglob("*") if p.is_file()]
    assert sorted(written) == sorted(there)
    assert not [p for p in written if "@" in p or "@NAME@" in Path(p).read_text() or "@CLASS@" in Path(p).read_text()]
    project = tomli.loads(Path("ebpfmon_my_naps/pyproject.toml").read_text())["project"]
    assert project["name"] == "ebpfmon-my-naps"
    assert project["entry-points"] == {"ebpfmon": {"my_naps": "ebpfmon_my_naps"}}
    plugin = Path("ebpfmon_my_naps/ebpfmon_my_naps/__init__.py").read_text()
    assert "class MyNapsSettings(" in plugin


@pytest.mark.parametrize("what", ["probe", "sink"])
def test_a_new_package_passes_the_linter(what: str, tmp_path: Path) -> None:
    list(scaffold.new(what, "naps", tmp_path / "x"))
    for check in (["check", "--select", "E,F,W,UP,B,ASYNC,SIM,C4,PT,RUF"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", check[0], "--isolated", "--line-length", "120", *check[1:], "."]
        done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Naps", "a name has at most 20 lower-case letters, digits and _, and begins with a letter"),
        ("my-naps", "a name has at most 20 lower-case letters"),
        ("1st", "a name has at most 20 lower-case letters"),
        ("n" * 21, "a name has at most 20 lower-case letters"),
        ("process", "the name is taken ('ebpfmon_process'); choose another"),
        ("sinks", "the name is taken ('ebpfmon_sinks'); choose another"),
        ("execs", "the name is taken"),
    ],
)
def test_an_invalid_name_is_refused(name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugin", "new", "probe", name, str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.startswith(f"ebpfmon: cannot write the probe '{name}': {reason}")
    assert not (tmp_path / "x").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    for place in (tmp_path, tmp_path / "mine"):
        assert cli.main(["plugin", "new", "sink", "naps", str(place)]) == 2
        reason = f"'{place}' is not an empty directory"
        assert capsys.readouterr().err == f"ebpfmon: cannot write the sink 'naps': {reason}\n"
    assert cli.main(["plugin", "new", "sink", "naps", str(tmp_path / "mine" / "below")]) == 2
    assert "Not a directory" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_every_template_is_used() -> None:
    for what, files in scaffold._FILES.items():
        assert sorted(files.values()) == sorted(p.name for p in (Path(scaffold.__file__).parent / what).iterdir())
