"""A daemon that has become another user imports nothing any more, because that user may not read Python's files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)
WATCH = """
import sys
from ebpfmon.cli import main
from ebpfmon.kernel import capabilities

switch_user, switched = capabilities.switch_user, []

def switch(*arguments):
    switch_user(*arguments)
    switched.append(True)

def watch(event, arguments):
    if switched and event == "import":
        print("LATE", arguments[0], file=sys.__stderr__, flush=True)

capabilities.switch_user = switch
sys.addaudithook(watch)
sys.exit(main.main(sys.argv[1:]))
"""
SETTINGS = """
groups.by = ["application", "process", "user", "container"]
[ebpfmon]
user = "nobody"
[[sinks]]
type = "http_json"
port = 0
[[sinks]]
type = "http_push"
url = "http://localhost:9/"
[[sinks]]
type = "statsd"
host = "localhost"
port = PORT
[[sinks]]
type = "plugins_d"
socket = "FOLDER/socket"
group = ""
[[sinks]]
type = "log"
path = "FOLDER/log"
[[sinks]]
type = "log"
name = "journal"
path = "journal"
"""
PATHS = ("/", "/metrics", "/openapi.json", "/nothing", "/healthz")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a directory that every user may read and write."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def test_nothing_is_imported_after_the_user_was_switched(folder: Path) -> None:
    path = folder / "e.toml"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        settings = SETTINGS.replace("FOLDER", str(folder)).replace("PORT", str(statsd.getsockname()[1]))
        path.write_text(settings)
        command = [sys.executable, "-c", WATCH, "run", "--config", str(path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
            lines: list[str] = []

            def until(text: str) -> str:
                assert daemon.stderr
                for line in daemon.stderr:
                    lines.append(line)
                    if text in line:
                        return line
                raise AssertionError(f"the daemon ended without '{text}': {lines}")

            try:
                url = until("serving at ").rpartition(" ")[2].strip().rstrip("/")
                statsd.recv(1 << 16)
                for page in PATHS:
                    with suppress(urllib.error.HTTPError):
                        urllib.request.urlopen(f"{url}{page}").read()
                path.write_text(settings.replace("user =", "usr ="))
                daemon.send_signal(signal.SIGHUP)
                assert "no such setting: did you mean 'user'?" in until("reload")
                path.write_text(settings.replace("user =", "load_mode = 'return'\nuser ="))
                daemon.send_signal(signal.SIGHUP)
                until("reload")
                daemon.terminate()
                lines += daemon.stderr or ()
            finally:
                daemon.kill()
        assert daemon.returncode == 0
    assert [line for line in lines if line.startswith("LATE")] == []
