"""OpenSSL is loaded when TLS is spoken, and not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_DAEMON = """
import sys
from ebpfmon.cli import main as cli
from ebpfmon.plugins import registry
registry.discover()
assert "asyncio" in sys.modules
assert not {"ssl", "_ssl", "_hashlib"} & set(sys.modules), "OpenSSL is loaded"
"""
_TLS = """
import asyncio, sys
async def answer(reader, writer):
    writer.write(b"got " + await reader.readexactly(5))
    writer.close()
async def talk(certificate, key):
    import ssl
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate, key)
    trust = ssl.create_default_context(cafile=certificate)
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=ours) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="localhost")
        writer.write(b"hello")
        print(await reader.read(), writer.get_extra_info("cipher")[1])
        writer.close()
asyncio.run(talk(*sys.argv[1:]))
"""


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def test_the_daemon_and_all_plugins_are_there_without_openssl() -> None:
    python(_DAEMON)


@pytest.mark.parametrize("before", ["", "import ssl\n", "import asyncio\n"])
def test_whoever_imports_ssl_later_speaks_tls_through_asyncio(before: str, tmp_path: Path) -> None:
    certificate, key = str(tmp_path / "certificate"), str(tmp_path / "key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    lean = "from ebpfmon import lean\nlean.import_asyncio()\n"
    assert python(before + lean + _TLS, certificate, key).strip() == "b'got hello' TLSv1.3"


def test_it_can_be_asked_for_twice() -> None:
    python(
        "import sys\nfrom ebpfmon import lean\nlean.import_asyncio()\nlean.import_asyncio()\nimport ssl\n"
        "import asyncio\nassert asyncio.sslproto.ssl is ssl\nassert asyncio.base_events.ssl is ssl"
    )
