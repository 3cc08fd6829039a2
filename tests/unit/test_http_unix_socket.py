"""The HTTP sink on a Unix socket."""

from __future__ import annotations

import asyncio
import errno
import grp
import json
import os
import select
import socket
import stat
import subprocess
from pathlib import Path

import aiohttp
import pytest

from ebpfmon import SinkError
from ebpfmon_sinks.http_json import listen
from ebpfmon_sinks.http_json.settings import HttpJsonSettings
from tests.unit.http_support import SNAPSHOT, run, serving, until


async def status(path: Path, url: str = "http://any.name/api/v1/snapshot") -> int:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session, session.get(url) as answer:
        await answer.read()
        return answer.status


def test_clients_are_served_on_the_socket_whatever_host_they_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "http.sock"
    caplog.set_level("INFO")

    async def test() -> None:
        async with serving(HttpJsonSettings(socket=str(path)), SNAPSHOT) as served:
            assert await status(path) == 200
            assert served.sink.port == 0
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert not path.exists()

    run(test)
    assert f"serving at the Unix socket '{path}'" in caplog.messages


def test_curl_can_use_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"

    async def test() -> None:
        async with serving(HttpJsonSettings(socket=str(path)), SNAPSHOT):
            command = ["curl", "-s", "--unix-socket", str(path), "http://localhost/healthz"]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, timeout=20)
            assert json.loads(done.stdout)["status"] == "alive"

    run(test)


def test_a_token_is_needed_if_there_is_one(tmp_path: Path) -> None:
    token, path = tmp_path / "token", tmp_path / "http.sock"
    token.write_text("secret\n")

    async def test() -> None:
        async with serving(HttpJsonSettings(socket=str(path), token_file=str(token)), SNAPSHOT):
            assert await status(path) == 401

    run(test)


@pytest.mark.skipif(os.geteuid() != 0, reason="changing a file's group needs root; CI runs this as root")
def test_the_group_of_the_socket_is_that_of_the_settings(tmp_path: Path) -> None:
    path, group = tmp_path / "http.sock", grp.getgrall()[-1]

    async def test() -> None:
        async with serving(HttpJsonSettings(socket=str(path), socket_group=group.gr_name), SNAPSHOT):
            assert path.stat().st_gid == group.gr_gid
        with pytest.raises(SinkError, match=f"^cannot listen on '{path}': no group 'no-such'; create it, or change"):
            await HttpJsonSettings(socket=str(path), socket_group="no-such").open().__aenter__()

    run(test)


def test_a_socket_of_a_killed_daemon_is_replaced_and_a_live_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def test() -> None:
        async with serving(HttpJsonSettings(socket=str(path)), SNAPSHOT):
            with pytest.raises(SinkError, match=f"^cannot listen on '{path}': another daemon uses it; stop"):
                await HttpJsonSettings(socket=str(path)).open().__aenter__()
            assert await status(path) == 200
        path.write_text("precious")
        with pytest.raises(SinkError, match=f"^cannot listen on '{path}': it exists and is not a socket; remove"):
            await HttpJsonSettings(socket=str(path)).open().__aenter__()
        assert path.read_text() == "precious"
        blocked = path / "http.sock"
        with pytest.raises(SinkError, match=f"^cannot listen on '{blocked}': .+"):
            await HttpJsonSettings(socket=str(blocked)).open().__aenter__()

    run(test)


def test_a_socket_that_fails_leaves_no_file_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *ids: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)

    monkeypatch.setattr(os, "chown", refuse)
    path, missing = tmp_path / "http.sock", tmp_path / "missing"

    async def test() -> None:
        settings = HttpJsonSettings(socket=str(path), socket_group=grp.getgrgid(0).gr_name)
        with pytest.raises(SinkError, match=f"^cannot listen on '{path}': cannot set its group: Operation not perm"):
            await settings.open().__aenter__()
        with pytest.raises(SinkError, match=f"^cannot listen on .+: there is no folder '{missing}'; create it$"):
            await HttpJsonSettings(socket=str(missing / "http.sock")).open().__aenter__()
        assert os.listdir(tmp_path) == []

    run(test)


def test_connections_are_limited_for_each_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "PER_ORIGIN", 3)
    path = tmp_path / "http.sock"

    async def test() -> None:
        async with serving(HttpJsonSettings(socket=str(path)), SNAPSHOT) as served:
            made = [socket.socket(socket.AF_UNIX) for _ in range(5)]
            for each in made:
                each.connect(str(path))
                each.setblocking(False)
            await until(lambda: select.select(made[:2], [], [], 0)[0] == made[:2])
            assert select.select(made[2:], [], [], 0)[0] == [], "the newest stay"
            assert {each.origin for each in served.sink._listener._connections} == {os.geteuid()}
            assert await status(path) == 200
            for each in made:
                each.close()

    run(test)
