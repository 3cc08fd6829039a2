"""Files that people write: whatever is at the path, reading ends at once, with the text or with the reason."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ebpfmon import config
from ebpfmon.cli import main as cli
from ebpfmon.errors import EbpfmonError, SettingsError
from ebpfmon.files import MAX_BYTES, read_text
from ebpfmon.grouping.groups import Groups
from ebpfmon.plugins import folder
from ebpfmon.plugins.registry import discover

TEXT = '# Größe\n[groups]\nby = ["user"]\n'
FOUND = discover([])


def loop(path: Path) -> None:
    path.symlink_to(path)


def listen(path: Path) -> None:
    os.chdir(path.parent)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path.name)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


Make = Callable[[Path], object]
UNUSABLE: dict[str, tuple[Make, str]] = {
    "FIFO": (os.mkfifo, "not a regular file"),
    "directory": (Path.mkdir, "not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "socket": (listen, "not a regular file"),
    "loop of links": (loop, "Too many levels of symbolic links"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "file as a directory": (Path.touch, "Not a directory"),
    "huge": (lambda path: path.write_bytes(b"#" * (MAX_BYTES + 1)), "larger than 1 MB"),
    "sparse": (sparse, "larger than 1 MB"),
    "UTF-16": (lambda path: path.write_text(TEXT, "utf-16"), "its encoding is UTF-16; save it as UTF-8"),
    "UTF-16, big-endian": (
        lambda path: path.write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be")),
        "its encoding is UTF-16; save it as UTF-8",
    ),
    "UTF-16 without a mark": (
        lambda path: path.write_text(TEXT, "utf-16-le"),
        "it contains NUL bytes, so it is not text in UTF-8",
    ),
    "NUL": (lambda path: path.write_bytes(b"a: b\0\n"), "it contains NUL bytes, so it is not text in UTF-8"),
}
NOT_UTF_8 = b"# first\n# Gr\xf6\xdfe\n"


@pytest.fixture(params=UNUSABLE)
def unusable(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """Return a path that leads to something unusable, and the reason."""
    monkeypatch.chdir(tmp_path)
    make, reason = UNUSABLE[request.param]
    make(tmp_path / "x")
    return tmp_path / "x" / ("y" if reason == "Not a directory" else ""), reason


def test_an_unusable_settings_file_is_an_error_of_one_line(
    unusable: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, reason = unusable
    for command in (["config", "check"], ["config", "show"], ["plugins"]):
        assert cli.main([*command, "--config", str(path)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.removeprefix(f"ebpfmon: {path}: ").removeprefix("cannot be read: ")) == ("", f"{reason}\n")


def test_an_unusable_groups_file_is_an_error_that_names_the_key(unusable: tuple[Path, str]) -> None:
    path, reason = unusable
    for raw, key in (
        ({"groups": {"file": str(path)}}, "groups.file"),
        ({"apps": {"groups": str(path)}}, "apps.groups"),
    ):
        with pytest.raises(SettingsError) as caught:
            config.validate(raw, "e.toml", FOUND)
        assert str(caught.value) == f"e.toml: {key}: {path}: {reason}"
    with pytest.raises(SettingsError) as caught:  # as when the file changes between the check and the start
        Groups.read(path)
    assert str(caught.value) == f"{path}: cannot be read: {reason}"


@pytest.mark.parametrize("what", ["nothing", "FIFO", "file", "loop of links", "long name"])
def test_a_plugins_folder_that_cannot_be_read_is_an_error_in_the_settings(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / ("x" * 300 if what == "long name" else "x")
    make: dict[str, Make] = {"FIFO": os.mkfifo, "file": Path.touch, "loop of links": loop}
    if what in make:
        make[what](place)
    settings = tmp_path / "e.toml"
    settings.write_text(f'[ebpfmon]\nplugins_dir = "{place}"\n')
    for command in (["config", "check"], ["plugins"], ["run", "--for", "1"]):
        assert cli.main([*command, "--config", str(settings)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"ebpfmon: {settings}: cannot load plugins from ebpfmon.plugins_dir: '{place}': ")


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x" * 200] * 30), "a\0b"], ids=["name", "path", "NUL"])
def test_a_path_that_the_system_refuses_is_an_error_of_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for read in (lambda: config.parse(path), lambda: Groups.read(path), lambda: list(folder.files(path))):
        with pytest.raises(EbpfmonError) as caught:
            read()
        assert str(caught.value).isprintable()
    for raw in ({"groups": {"file": name}}, {"apps": {"groups": name}}):
        with pytest.raises(SettingsError, match=r"^e\.toml: (groups\.file|apps\.groups): "):
            config.validate(raw, "e.toml", FOUND)


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"ebpfmon": {"user": "a\0b"}}, "ebpfmon.user"),
        ({"ebpfmon": {"plugins_dir": "/a\0b"}}, "ebpfmon.plugins_dir"),
        ({"ebpfmon": {"disabled_plugins": ["x", "a\0b"]}}, "ebpfmon.disabled_plugins[1]"),
        ({"sinks": [{"type": "log", "path": "/a\0b"}]}, "sinks[0].path"),
        ({"sinks": [{"type": "http_json", "token_file": "/a\0b"}]}, "sinks[0].token_file"),
        ({"sinks": [{"type": "statsd", "host": "a\0b"}]}, "sinks[0].host"),
        ({"plugins": {"network_viewer": {"service_name": {"1": "a\0b"}}}}, "plugins.network_viewer.service_name.1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_setting_may_contain_a_nul_character(raw: dict[str, object], key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        config.validate(raw, "e.toml", discover())
    assert str(caught.value).startswith(f"e.toml: {key}: '")
    assert str(caught.value).endswith(r"b': a text must not contain a NUL character")


def test_bytes_that_are_not_utf_8_are_named_with_their_line_but_a_groups_file_may_contain_them(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(NOT_UTF_8)
    with pytest.raises(SettingsError) as caught:
        config.parse(path)
    assert str(caught.value) == f"{path}: cannot be read: byte 0xf6 in line 2 is not UTF-8; save it as UTF-8"
    path.write_bytes(b"web: caf\xe9\n")
    assert Groups.read(path).names == ("web",)


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert config.parse(path).raw == {"groups": {"by": ["user"]}}
    path.write_bytes(b"\xef\xbb\xbfweb: nginx\r\n")
    assert Groups.read(path).match("nginx", "") == "web"


def test_the_null_device_and_links_to_it_are_empty_settings(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(os.devnull)
    for path in (Path(os.devnull), tmp_path / "x"):
        assert config.parse(path).raw == {}


def test_a_file_of_the_greatest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"#" * MAX_BYTES)
    assert len(read_text(path)) == MAX_BYTES


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_others_cannot_enter_is_an_error_of_one_line(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "e.toml").write_text(TEXT)
    (closed / "my.conf").write_text("web: nginx\n")
    read_end, write_end = os.pipe()
    if not (child := os.fork()):
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            for read in (
                lambda: config.read(closed / "e.toml", FOUND),
                lambda: config.validate({"groups": {"file": str(closed / "my.conf")}}, "e.toml", FOUND),
                lambda: list(folder.files(closed)),
            ):
                try:
                    read()
                except EbpfmonError as error:
                    os.write(write_end, f"{error}\n".encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end) as answers:
        assert answers.read().splitlines() == [
            f"{closed}/e.toml: cannot be read: Permission denied",
            f"e.toml: groups.file: {closed}/my.conf: Permission denied",
            f"'{closed}': Permission denied",
        ]
    os.waitpid(child, 0)


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["plugin", "new", "probe", "naps", LONG], ["bpf", "build", f"{LONG}.bpf.c"],
        ["install", "systemd", "--dry-run", "--prefix", LONG],
        ["install", "netdata", "--dry-run", "--prefix", LONG],
        ["install", "netdata", "--dry-run", "--directory", LONG],
        ["config", "check", "--config", LONG], ["plugins", "--config", LONG],
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)  # fmt: skip
def test_a_name_that_is_too_long_on_the_command_line_is_an_error_of_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err.startswith("ebpfmon: ")) == ("", 1, True)


def test_install_systemd_does_not_wait_for_a_fifo_in_place_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ebpfmon").touch(0o755)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "ebpfmon")])
    (tmp_path / "etc/ebpfmon").mkdir(parents=True)
    os.mkfifo(tmp_path / "etc/ebpfmon/ebpfmon.toml")
    assert cli.main(["install", "systemd", "--dry-run", "--prefix", str(tmp_path)]) == 2
    path = tmp_path / "etc/ebpfmon/ebpfmon.toml"
    assert capsys.readouterr().err == f"ebpfmon: install systemd: cannot write '{path}': not a regular file\n"
