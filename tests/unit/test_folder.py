"""Plugins in a folder: single files that no other user may be able to change."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmon import Probe
from ebpfmon.errors import ObjectError, PluginError, SettingsError
from ebpfmon.kernel.objects import locate
from ebpfmon.plugins import folder
from ebpfmon.plugins.folder import MODULE_PREFIX, File, files
from ebpfmon.plugins.registry import PluginOptions, State, discover
from tests.unit.support import FakeEntryPoint, plugin

PLUGIN = """
from ebpfmon import Chart, Dimension, Probe, ProbeSettings, hookimpl

EBPFMON_API_VERSION = 2
__version__ = "1.5"

class NapsSettings(ProbeSettings, frozen=True):
    '''Looked up in its module, by its name.'''
    nap: "int" = 3

@hookimpl
def ebpfmon_register_probes():
    chart = Chart(id="NAME.x", title="", units="n/s", family="f", priority=1, dimensions=(Dimension("d", "d", ("n",)),))
    return [Probe(name="NAME", package=__name__, object="NAME", charts=(chart,), settings=NapsSettings)]
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for plugins, with one in it."""
    made = tmp_path / "plugins"
    made.mkdir(mode=0o755)
    write(made, "naps")
    yield made
    for name in [n for n in sys.modules if n.startswith(MODULE_PREFIX)]:
        del sys.modules[name]


def write(place: Path, name: str, text: str = PLUGIN) -> Path:
    path = place / f"{name}.py"
    path.write_text(text.replace("NAME", name))
    path.chmod(0o644)
    return path


def errors(place: Path) -> dict[str, str | None]:
    return {p.name: p.error for p in discover([], PluginOptions(str(place))).plugins}


def test_each_python_file_is_a_plugin_unless_its_name_begins_with_an_underscore_or_a_dot(place: Path) -> None:
    write(place, "_helper")
    (place / "notes.txt").touch()
    (place / ".hidden.py").touch()
    assert list(files(place)) == [File(place / "naps.py")]
    found = discover([], PluginOptions(str(place)))
    assert found.probes["naps"].settings().nap == 3  # type: ignore[attr-defined]  # its own setting
    (naps,) = found.plugins
    assert (naps.file, naps.version, naps.distribution, naps.api_version) == (str(place / "naps.py"), "1.5", "", 2)
    assert naps.hooks == ("ebpfmon_register_probes",)
    assert not (place / "__pycache__").exists()


def test_the_object_of_a_probe_is_beside_its_file(place: Path) -> None:
    probe: Probe = discover([], PluginOptions(str(place))).probes["naps"]
    compiled = place / "objects" / os.uname().machine / "naps.bpf.o"
    with pytest.raises(ObjectError, match=str(compiled)):
        locate(probe)
    compiled.parent.mkdir(parents=True)
    compiled.touch()
    assert locate(probe) == compiled


def test_a_folder_that_does_not_exist_or_is_not_absolute_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        discover([], PluginOptions(str(tmp_path / "none")))
    message = f"cannot load plugins from ebpfmon.plugins_dir: '{tmp_path}/none': No such file or directory"
    assert str(caught.value) == message
    with pytest.raises(SettingsError, match="expected an absolute path"):
        discover([], PluginOptions("plugins"))
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="Not a directory"):
        discover([], PluginOptions(str(tmp_path / "file")))


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_an_error(place: Path, mode: int) -> None:
    place.chmod(mode)
    with pytest.raises(PluginError) as caught:
        discover([], PluginOptions(str(place)))
    assert f"'{place}' (owner {place.owner()}, mode {mode:04o}) can be changed by other users" in str(caught.value)
    assert str(caught.value).endswith(f"; run chmod go-w '{place}'")


def test_a_parent_that_others_can_write_to_is_an_error_unless_it_is_sticky(place: Path) -> None:
    place.parent.chmod(0o777)
    with pytest.raises(PluginError, match=rf"'{place.parent}' \(owner .*, mode 0777\)"):
        discover([], PluginOptions(str(place)))
    place.parent.chmod(0o1777)
    assert errors(place) == {"naps": None}


def test_a_link_is_checked_by_its_target(place: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place)
    assert errors(tmp_path / "link") == {"naps": None}
    place.chmod(0o777)
    with pytest.raises(PluginError, match=rf"'{place}' \(owner .*, mode 0777\)"):
        discover([], PluginOptions(str(tmp_path / "link")))


def test_a_plugin_is_left_out_if_others_can_change_its_file_or_object(place: Path) -> None:
    naps = place / "naps.py"
    naps.chmod(0o664)
    assert f"'{naps}' (owner {naps.owner()}, mode 0664)" in str(errors(place)["naps"])
    naps.chmod(0o644)
    there = place / "objects" / os.uname().machine
    there.mkdir(parents=True)
    (there / "naps.bpf.o").touch()
    (there / "naps.bpf.o").chmod(0o666)
    assert f"chmod go-w '{there}/naps.bpf.o'" in str(errors(place)["naps"])
    (there / "naps.bpf.o").chmod(0o644)
    (place / "objects").chmod(0o777)
    assert f"chmod go-w '{place}/objects'" in str(errors(place)["naps"])
    (place / "objects").chmod(0o755)
    assert errors(place) == {"naps": None}


def test_a_folder_of_another_user_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.stat(place)
    of_other_user = os.stat_result((status.st_mode, *status[1:4], 12345, *status[5:]))
    with pytest.raises(PluginError, match=rf"'{place}' \(owner 12345, mode 0755\) .*; run chown root '{place}'$"):
        folder._check(place, of_other_user)


def test_broken_files_are_reported_and_the_others_are_loaded(place: Path) -> None:
    write(place, "a", "x = (")
    write(place, "b", "import no_such_module_at_all")
    write(place, "c", "raise SystemExit(1)")
    write(place, "d", "\0")
    write(place, "e", "x = 1\n" * 200_000)
    write(place, "f-g")
    (place / "h.py").mkdir()
    (place / "i.py").symlink_to(place / "gone")
    os.mkfifo(place / "j.py", 0o644)
    write(place, "k", "# coding: no-such-coding")
    found = errors(place)
    assert found.pop("naps") is None
    reasons = [
        ("a", "SyntaxError: '(' was never closed (a.py, line 1)"),
        ("b", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("c", "SystemExit: 1"),
        ("d", "null bytes"),
        ("e", "larger than 1 MB"),
        ("f-g", "the name of a plugin may have only letters, digits and _; rename the file"),
        ("h", "not a regular file"),
        ("i", "No such file or directory"),
        ("j", "not a regular file"),
        ("k", "SyntaxError"),
    ]
    assert [name for name, text in reasons if text not in str(found.pop(name))] == []
    assert found == {}
    assert [m for m in sys.modules if m.startswith(MODULE_PREFIX)] == [f"{MODULE_PREFIX}naps"]


def test_a_file_with_the_name_of_an_installed_plugin_is_left_out(place: Path) -> None:
    installed = plugin(probes=[])
    found = discover([FakeEntryPoint("naps", installed)], PluginOptions(str(place)))
    assert [(p.state, p.file) for p in found.plugins] == [
        (State.ACTIVE, ""),
        (State.LEFT_OUT, str(place / "naps.py")),
    ]
    assert (
        found.left_out[0].error == "plugin 'naps' (unknown origin) already has that name; rename or disable one of them"
    )


def test_a_disabled_file_is_not_read(place: Path) -> None:
    (place / "naps.py").write_text("raise AssertionError('it was imported')")
    (found,) = discover([], PluginOptions(str(place), ("naps",))).plugins
    assert (found.state, found.error) == (State.DISABLED, None)
