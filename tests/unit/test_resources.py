"""What only one sink may use at a time: it has one name for all spellings, and two sinks on it are refused."""

from __future__ import annotations

import os
import pty
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebpfmon import (
    SettingsError,
    SinkSettings,
    file_resources,
    port_resources,
    resources,
    standard_stream,
    stream_resources,
)
from ebpfmon.config import CommandLine, validate
from ebpfmon.plugins.registry import Registry, discover
from ebpfmon.resources import overlap
from ebpfmon_sinks.log import journal
from ebpfmon_sinks.log.settings import LogSettings

FOUND = discover()
STDOUT = (
    "stdout", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", f"/proc/{os.getpid()}/fd/1",
    "/dev/../dev//stdout",
)  # fmt: skip


def two(first: dict[str, Any], second: dict[str, Any]) -> tuple[SinkSettings, ...]:
    """Return the validated settings of two sinks, called `a` and `b`."""
    return validate({"sinks": [{"name": "a", **first}, {"name": "b", **second}]}, "e.toml", FOUND).sinks


def refused(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Return what two sinks cannot both use."""
    with pytest.raises(SettingsError) as error:
        two(first, second)
    found = re.fullmatch(
        r"e\.toml: sinks\[1\]: sinks 'a' and 'b' cannot both use (.+); change or remove one of them", str(error.value)
    )
    assert found, error.value
    return found[1]


def log(path: object) -> dict[str, Any]:
    return {"type": "log", "path": str(path)}


@pytest.fixture
def replaced() -> Iterator[list[int]]:
    """Yield copies of stdin, stdout and stderr, and restore these from them in the end."""
    saved = [os.dup(fd) for fd in range(3)]
    yield saved
    for fd, copy in enumerate(saved):
        os.dup2(copy, fd)
        os.close(copy)


@pytest.mark.parametrize("path", STDOUT)
def test_two_sinks_cannot_both_write_to_stdout_however_it_is_spelled(path: str) -> None:
    assert refused(log("stdout"), log(path)) == "stdout"
    assert refused({"type": "plugins_d", "socket": "-"}, log(path)) == "stdout"
    assert refused(log(path), {"type": "plugins_d", "socket": "-"}) == "stdout"
    assert standard_stream(path) == (None if path == "stdout" else 1)


def test_a_link_to_stderr_is_stderr(tmp_path: Path) -> None:
    (tmp_path / "relative").symlink_to("link")
    (tmp_path / "link").symlink_to("/dev/stderr")
    assert standard_stream(str(tmp_path / "relative")) == 2
    assert refused(log("stderr"), log(tmp_path / "relative")) == "stderr"


def test_stdout_and_the_file_or_pipe_or_terminal_that_it_is_are_one(tmp_path: Path, replaced: list[int]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    controller, terminal = pty.openpty()
    opened = [(tmp_path / "x", os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT)), (fifo, os.open(fifo, os.O_RDWR)),
              (Path(os.ttyname(terminal)), terminal)]  # fmt: skip
    for path, fd in opened:
        os.dup2(fd, 1)
        assert re.match(r"inode|device", refused(log("stdout"), log(path)))
        os.dup2(fd, 2)
        assert re.match(r"inode|device", refused(log("stdout"), log("stderr"))), "2>&1"
    for fd in (controller, *(fd for _, fd in opened)):
        os.close(fd)


def test_stdout_and_stderr_may_both_be_the_journal(replaced: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair()
    with left, right:
        for fd in (1, 2):
            os.dup2(left.fileno(), fd)
        assert re.match("inode", refused(log("stdout"), log("stderr")))
        monkeypatch.setattr(journal, "is_journal", lambda fd: True)
        assert len(two(log("stdout"), log("stderr"))) == 2
        assert refused(log("stdout"), log("/dev/stdout")) == "stdout"


def test_a_file_has_one_name_by_whichever_path_and_before_it_exists(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "also").symlink_to("folder")
    path = tmp_path / "folder" / "log"
    for spelling in (path, tmp_path / "also" / "log", f"{tmp_path}/folder/../also/./log"):
        assert refused(log(path), log(spelling)) == f"file '{path}'"
    path.touch()
    (tmp_path / "hard").hardlink_to(path)
    (tmp_path / "soft").symlink_to("hard")
    status = path.stat()
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    assert refused(log(path), log(tmp_path / "soft")) == f"inode {status.st_ino} of device {device}"


def test_a_file_that_does_not_exist_yet_has_one_name_by_all_mounts_of_its_folder(tmp_path: Path) -> None:
    """A bind mount has another path and the same inode. Here, a folder that has been renamed stands for it."""
    before = file_resources(str(tmp_path / "a" / "new"))
    (tmp_path / "a").mkdir()
    first = file_resources(str(tmp_path / "a" / "new"))
    (tmp_path / "a").rename(tmp_path / "b")
    second = file_resources(str(tmp_path / "b" / "new"))
    status = os.stat(tmp_path / "b")
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    assert overlap(first, second) == [f"file 'new' of inode {status.st_ino} of device {device}"]
    assert overlap(before, second) == overlap(second, file_resources(str(tmp_path / "b" / "other"))) == []


def test_sinks_on_different_files_and_on_what_is_not_exclusive_are_allowed(tmp_path: Path) -> None:
    for first, second in (
        (log(tmp_path / "a"), log(tmp_path / "b")),
        (log(f"{tmp_path}/a*"), log(f"{tmp_path}/ab")),
        (log("stdout"), log("stderr")),
        (log("journal"), log("journal")),
        (log("/dev/null"), log("/dev/null")),
        (log("/dev/full"), log("/dev/full")),
        ({"type": "statsd"}, {"type": "statsd"}),
        ({"type": "http_json", "port": 0}, {"type": "http_json", "port": 0}),
        ({"type": "plugins_d"}, {"type": "plugins_d", "socket": "/run/other"}),
    ):
        assert len(two(first, second)) == 2


def test_a_unix_socket_has_one_name_by_whichever_path(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "also").symlink_to("folder")
    first = {"type": "plugins_d", "socket": str(tmp_path / "folder" / "x")}
    second = {"type": "plugins_d", "socket": str(tmp_path / "also" / "x")}
    assert refused(first, second) == f"file '{tmp_path}/folder/x'"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(first["socket"])
        assert refused(first, second) == f"file '{tmp_path}/folder/x'"


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.1", True),
        ("127.0.0.1", "localhost", True),
        ("::1", "LOCALHOST", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("192.0.2.1", "0", True),
        ("::", "2001:db8::1", True),
        ("0.0.0.0", "0.0.0.0", True),
        ("host.example", "Host.example", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::1", False),
        ("0.0.0.0", "::", False),
    ],
)
def test_two_sinks_cannot_both_listen_on_one_port_of_one_address(first: str, second: str, is_same: bool) -> None:
    def settings(host: str, port: int) -> dict[str, Any]:
        return {"type": "http_json", "host": host, "port": port, "insecure": True}

    for one, other in ((first, second), (second, first)):
        if is_same:
            assert refused(settings(one, 9797), settings(other, 9797)).startswith("TCP port 9797")
        else:
            assert len(two(settings(one, 9797), settings(other, 9797))) == 2
        assert len(two(settings(one, 9797), settings(other, 979))) == 2


def test_addresses_that_overlap_are_those_that_the_kernel_refuses_to_bind_twice() -> None:
    for first, second in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.2")):
        with socket.create_server((first, 0)) as server:
            port = server.getsockname()[1]
            is_taken = bool(overlap(port_resources(first, port), port_resources(second, port)))
            with socket.socket() as again:
                again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    again.bind((second, port))
                except OSError:
                    assert is_taken
                else:
                    assert not is_taken


@pytest.mark.parametrize("path", ["", "\0", "x" * 5000, "/no/such/folder/x", "\udcff", "/dev/fd/999", "a/" * 3000])
def test_any_path_has_resources(path: str) -> None:
    assert overlap(file_resources(path), file_resources(path)) == sorted(file_resources(path))
    assert not file_resources(path) & stream_resources(1)


def test_a_file_server_that_does_not_answer_delays_the_settings_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, real, asked = threading.Event(), os.stat, list[str]()

    def stat(path: Any, **more: Any) -> os.stat_result:
        if path == "/hung/log":
            asked.append(path)
            answer.wait()
        return real(path, **more)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(resources, "_ANSWER_S", 0.05)
    for _ in range(20):
        assert file_resources("/hung/log") == {"file '/hung/log'"}
    assert refused(log("/hung/log"), log("/hung/log")) == "file '/hung/log'"
    assert asked == ["/hung/log"], "one thread waits, and no other"
    answer.set()


class OwnSettings(SinkSettings, tag="own", frozen=True):
    fails: bool = False

    @property
    def resources(self) -> frozenset[str]:
        if self.fails:
            raise RuntimeError("no\nidea")
        return frozenset({"the one device"})


def test_a_third_party_sink_has_resources_of_its_own() -> None:
    found = Registry({}, {"own": OwnSettings, "log": LogSettings}, [])
    one, two_, log_ = ({"type": "own", "name": "1"}, {"type": "own", "name": "2"}, {"type": "log"})
    with pytest.raises(SettingsError, match="sinks '1' and '2' cannot both use the one device"):
        validate({"sinks": [one, log_, two_]}, "e.toml", found)
    assert len(validate({"sinks": [one, log_]}, "e.toml", found).sinks) == 2
    with pytest.raises(SettingsError, match=r"sinks\[0\]: resources: RuntimeError: no idea"):
        validate({"sinks": [{**one, "fails": True}]}, "e.toml", found)


def test_with_json_sinks_that_would_mix_with_it_are_moved_or_left_out(
    caplog: pytest.LogCaptureFixture, replaced: list[int]
) -> None:
    def paths(*paths: str) -> list[str]:
        sinks = [{"name": path, **log(path)} for path in paths]
        found = validate({"sinks": sinks}, "e.toml", FOUND, CommandLine(json=True)).sinks
        return [sink.path for sink in found if isinstance(sink, LogSettings)]

    assert paths("/dev/stdout", "/f") == ["stderr", "/f", "stdout"]
    assert paths("stdout", "stderr") == ["stderr", "stdout"]
    assert caplog.messages == ["--json: leaving out sinks[0] 'stdout', because it would mix lines with other sinks"]
    os.dup2(1, 2)
    assert paths("stdout", "/f") == ["/f", "stdout"]
