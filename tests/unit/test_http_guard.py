"""The HTTP sink: tokens, TLS, limits and failures."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from ebpfmon import SinkError
from ebpfmon_sinks import http_common
from ebpfmon_sinks.blocking import THREAD
from ebpfmon_sinks.http_json import middlewares, views
from ebpfmon_sinks.http_json.routes import ROUTES
from ebpfmon_sinks.http_json.settings import HttpJsonSettings
from tests.unit.http_support import SNAPSHOT, make_certificate, run, serving, settings_on_free_port, until

PATHS = [r.path.replace("{id}", "ebpf.io") for r in ROUTES if r.name != "stream"]


def test_without_the_token_only_health_checks_are_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_text("secret-1\n")
    file.chmod(0o600)

    async def test() -> None:
        async with serving(settings_on_free_port(token_file=str(file)), SNAPSHOT) as served:
            for wrong in ({}, {"Authorization": "Bearer secret-2"}, {"Authorization": "Basic secret-1"},
                          {"Authorization": "Bearer "}, {"Authorization": "Bearer sécret"}):  # fmt: skip
                for path in PATHS:
                    answer = await served.get(path, wrong)
                    assert answer.status == (200 if path in ("/healthz", "/readyz") else 401), path
                    if answer.status == 401:
                        assert answer.headers["WWW-Authenticate"] == "Bearer"
                        assert b"secret" not in answer.body
            for path in PATHS:
                assert (await served.get(path, {"Authorization": "bearer secret-1"})).status == 200
            file.write_text("secret-3\n")
            assert served.sink._token
            served.sink._token._read_s -= 1
            assert (await served.get("/", {"Authorization": "Bearer secret-1"})).status == 401
            assert (await served.get("/", {"Authorization": "Bearer secret-3"})).status == 200
            file.unlink()
            served.sink._token._read_s -= 1
            for _ in range(5):
                assert (await served.get("/", {"Authorization": "Bearer secret-3"})).status == 503
            file.write_text("secret-3\n")
            file.chmod(0o600)
            for _ in range(2):
                assert (await served.get("/", {"Authorization": "Bearer secret-3"})).status == 200

    run(test)
    assert [r.getMessage() for r in caplog.records] == [
        f"cannot read the token in '{file}': No such file or directory; requests get 503 until that works",
        f"the token in '{file}' can be read again",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "expected one line"), ("a b", "expected one line"), ("a\nb", "expected"), ("\x00", "expected"),
     ("x" * 5000, "expected one line"), (None, "No such file")],
)  # fmt: skip
def test_an_invalid_token_file_is_an_error_that_names_it_but_hides_its_content(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)

    async def test() -> None:
        with pytest.raises(SinkError, match=message) as caught:
            await settings_on_free_port(token_file=str(file)).open().__aenter__()
        assert str(file) in str(caught.value)
        assert not text or text not in str(caught.value)

    run(test)


def stuck_calls() -> int:
    """Return how many threads are in calls that have not returned."""
    return sum(thread.name == THREAD for thread in threading.enumerate())


def test_a_token_file_that_never_answers_fails_only_the_requests_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, pipe = tmp_path / "token", tmp_path / "pipe"
    file.write_text("secret\n")
    file.chmod(0o600)
    os.mkfifo(pipe, 0o600)
    right = {"Authorization": "Bearer secret"}

    async def test() -> None:
        async with serving(settings_on_free_port(token_file=str(file)), SNAPSHOT) as served:
            os.replace(pipe, file)
            monkeypatch.setattr(http_common, "ANSWER_S", 0.2)
            assert served.sink._token
            served.sink._token._read_s -= 1
            for _ in range(3):
                answers = [asyncio.create_task(served.get("/", right)) for _ in range(8)]
                assert (await served.get("/healthz")).status == 200
                await served.sink.send(SNAPSHOT)
                assert {answer.status for answer in await asyncio.gather(*answers)} == {503}
                assert stuck_calls() == 1
            monkeypatch.undo()
            file.write_text("secret\n")  # the file server works again
            await until(lambda: not stuck_calls())
            os.unlink(file)
            file.write_text("secret\n")
            assert (await served.get("/", right)).status == 200

    run(test)
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert messages == [f"cannot read the token in '{file}': no answer within 0.2 s; requests get 503 until that works"]


def test_files_that_never_answer_are_errors_however_often_the_sink_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(http_common, "ANSWER_S", 0.1)

    async def test() -> None:
        for _ in range(10):
            for settings in ({"token_file": str(pipe)}, {"tls_certificate": str(pipe), "tls_key": str(pipe)}):
                with pytest.raises(SinkError, match=f"^cannot .* '{pipe}'.*: no answer within 0.1 s$"):
                    await settings_on_free_port(**settings).open().__aenter__()
        assert stuck_calls() == 2

    run(test)
    while stuck_calls():
        with suppress(OSError):  # ENXIO: the reader comes in a moment
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


def test_a_token_that_every_user_can_read_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(0o644)

    async def test() -> None:
        for _ in range(3):
            async with serving(settings_on_free_port(token_file=str(file)), SNAPSHOT) as served:
                assert served.sink._token
                served.sink._token._read_s -= 1
                assert (await served.get("/", {"Authorization": "Bearer secret"})).status == 200

    run(test)
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert messages == [f"every user can read the token in '{file}' (mode 0644); run 'chmod 600 {file}'"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_token_that_only_its_owner_or_group_can_read_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(mode)
    assert http_common.read_token(str(file)) == "secret"
    assert not caplog.records


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:99", 200), ("[::1]:9797", 200), ("192.0.2.1", 200), ("evil.example", 403),
     ("localhost.evil.example:80", 403), ("127.0.0.1.evil.example", 403), ("[::1", 403), ("a b", 403)],
)  # fmt: skip
def test_a_local_sink_refuses_requests_for_other_host_names(host: str, status: int) -> None:
    """Otherwise a foreign web page could read the data through a browser, by DNS rebinding."""

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            assert (await served.get("/api/v1/snapshot", {"Host": host})).status == status
        async with serving(HttpJsonSettings(host="0.0.0.0", port=0, insecure=True), SNAPSHOT) as served:
            assert (await served.get("/api/v1/snapshot", {"Host": "name.example"})).status == 200

    run(test)


@pytest.mark.parametrize(
    ("request_", "status"),
    [(b"GET /healthz HTTP/1.0", b"200"), (b"GET /healthz HTTP/1.1", b"400"), (b"GET /healthz HTTP/2.0", b"400"),
     (b"GET http://evil.example/healthz HTTP/1.0", b"200"), (b"OPTIONS * HTTP/1.0", b"404")],
)  # fmt: skip
def test_only_http_1_0_requests_may_omit_the_host_header(request_: bytes, status: bytes) -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.sink.port)
            writer.write(request_ + b"\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).split(b" ", 2)[1] == status
            writer.close()

    run(test)


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    async def test() -> None:
        async with serving() as served:
            with pytest.raises(SinkError, match=rf"^cannot listen on .* port {served.sink.port}: Address already"):
                await HttpJsonSettings(port=served.sink.port).open().__aenter__()

    run(test)


@pytest.mark.parametrize("host", ["192.0.2.77", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_an_error_that_names_it(host: str) -> None:
    async def test() -> None:
        with pytest.raises(SinkError, match=f"^cannot listen on '{host}' port 0: "):
            await HttpJsonSettings(host=host, port=0, insecure=True).open().__aenter__()

    run(test)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_with_a_certificate_the_sink_serves_only_over_tls(certificate: tuple[str, str]) -> None:
    async def test() -> None:
        settings = settings_on_free_port(tls_certificate=certificate[0], tls_key=certificate[1])
        async with serving(settings, SNAPSHOT) as served:
            trust = ssl.create_default_context(cafile=certificate[0])
            url = served.url.replace("http:", "https:") + "/api/v1/snapshot"
            async with served.session.get(url, ssl=trust) as response:
                assert response.status == 200
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await served.session.get(url)
            with pytest.raises(aiohttp.ClientError):  # without TLS
                await served.get("/")

    run(test)


def test_a_certificate_that_cannot_be_used_is_an_error_that_names_it(
    certificate: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "x").write_text("no certificate")
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", certificate[1], "-out", locked, "-aes128", "-passout", "pass:x"], check=True
    )

    async def test() -> None:
        for cert, key, message in (
            ("/no/such", certificate[1], "No such file"), (str(tmp_path / "x"), certificate[1], "PEM|SSL"),
            (certificate[0], str(locked), "encrypted"),
        ):  # fmt: skip
            with pytest.raises(SinkError, match=f"cannot use the certificate '{cert}' with '{key}': .*({message})"):
                await settings_on_free_port(tls_certificate=cert, tls_key=key).open().__aenter__()

    run(test)


def test_a_client_that_does_not_read_its_answer_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middlewares, "WRITE_S", 0.2)
    big = replace(SNAPSHOT, host="h" * 30_000_000)

    async def test() -> None:
        async with serving(None, big) as served:
            with socket.create_connection(("127.0.0.1", served.sink.port)) as end:
                end.sendall(b"GET /api/v1/snapshot HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await until(lambda: served.sink._listener.connections == 1)
                await until(lambda: not served.sink._listener.connections)

    run(test)


def test_an_internal_error_is_logged_and_hidden_from_the_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> bytes:
        raise RuntimeError("inner secret")

    monkeypatch.setattr(views, "snapshot", broken)

    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            answer = await served.get("/api/v1/snapshot")
            assert answer.status == 500
            assert b"secret" not in answer.body
            assert (await served.get("/healthz")).status == 200

    run(test)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == [
        "cannot answer GET '/api/v1/snapshot': RuntimeError: inner secret"
    ]
    assert not any(r.exc_info for r in caplog.records)


def test_the_sink_closes_at_once_whatever_its_clients_do() -> None:
    async def test() -> None:
        async with serving(None, SNAPSHOT) as served:
            ends = [await asyncio.open_connection("127.0.0.1", served.sink.port) for _ in range(10)]
            for n, (_, writer) in enumerate(ends):
                writer.write([b"", b"GET /", b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"][n % 3])
            await until(lambda: len(served.sink._streams) == 3)
        for _, writer in ends:
            writer.close()

    run(test, 20)  # By default aiohttp waits a minute for its clients.


def test_opening_and_closing_repeatedly_leaves_no_thread() -> None:
    async def test() -> None:
        for _ in range(3):
            async with settings_on_free_port().open() as sink:
                await sink.send(SNAPSHOT)
        await until(lambda: not [t for t in threading.enumerate() if t.name.startswith("http_json")])

    run(test)


def test_an_error_while_opening_says_why_without_numbers_and_functions(tmp_path: Path) -> None:
    file = tmp_path / "no certificate"
    file.write_text("text")
    certificate = settings_on_free_port(tls_certificate=str(file), tls_key=str(file))

    async def test() -> None:
        with pytest.raises(SinkError, match=r"^cannot listen on 'no.such.invalid' port 9797: [^\[\]]+$"):
            await HttpJsonSettings(host="no.such.invalid", insecure=True).open().__aenter__()
        with pytest.raises(SinkError, match=r": it is not a PEM certificate, or the key does not belong to it$"):
            await certificate.open().__aenter__()

    run(test)
