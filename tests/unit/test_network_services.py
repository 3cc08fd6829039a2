"""The service names of ports."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebpfmon_network_viewer.services import SERVICES, Services

FILE = """\
# a comment, and an empty line

ssh\t\t22/tcp\t\t\t\t# SSH Remote Login Protocol
domain\t\t53/tcp
domain  53/udp
http\t80/tcp  www  WorldWideWeb#glued
syslog 514/udp
shell 514/tcp cmd
second 22/tcp
big 65535/tcp
"""
BAD = """\
alone
nothing /tcp
letters x/tcp
none 0/tcp
large 65536/tcp
huge 99999999999999999999/udp
negative -1/tcp
arabic \u0668\u0660/tcp
protocol 81/sctp
noprotocol 82
upper 83/TCP
#hidden 84/tcp
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "services"
    path.write_bytes(BAD.encode() + b"latin\xe9 85/tcp\n" + FILE.encode())
    return path


def test_a_port_has_the_first_name_listed_for_its_protocol(file: Path) -> None:
    services = Services(path=file)
    assert services.name(22, "tcp") == "ssh"
    assert services.name(22, "udp") is None
    assert (services.name(514, "tcp"), services.name(514, "udp")) == ("shell", "syslog")
    assert services.name(65535, "tcp") == "big"
    assert services.name(1234, "tcp") is None


def test_a_service_is_found_by_name_and_alias_for_both_protocols(file: Path) -> None:
    services = Services(path=file)
    assert services.ports("domain") == {53}
    assert services.ports("http") == services.ports("www") == services.ports("WorldWideWeb") == {80}
    assert services.ports("second") == {22}
    assert services.ports("HTTP") == services.ports("") == frozenset()


def test_invalid_lines_are_skipped(file: Path) -> None:
    services = Services(path=file)
    words = BAD.replace("#", " ").split()
    assert len(words) > 20
    assert not [w for w in words if services.ports(w)]
    assert not [p for p in (0, 81, 82, 83, 84, 65536) if services.name(p, "tcp")]
    assert services.name(85, "tcp") == "latin\ufffd"
    assert services.name(80, "tcp") == "http"


def test_the_users_names_win_for_both_protocols_and_select_ports(file: Path) -> None:
    services = Services({22: "login", 8080: "http", 19999: "Netdata"}, path=file)
    assert services.name(22, "tcp") == services.name(22, "udp") == "login"
    assert services.name(19999, "udp") == "Netdata"
    assert services.ports("login") == services.ports("ssh") == {22}
    assert services.ports("http") == {80, 8080}


@pytest.mark.parametrize(
    ("where", "problem"), [("missing", None), (".", "not a regular file"), ("fifo", "not a regular file")]
)
def test_without_a_file_there_are_only_the_users_names(tmp_path: Path, where: str, problem: str | None) -> None:
    os.mkfifo(tmp_path / "fifo")
    services = Services({1: "one"}, path=tmp_path / where)
    assert str(services.problem.strerror if services.problem else None).startswith(str(problem))
    assert services.name(1, "tcp") == "one"
    assert services.name(22, "tcp") is None
    assert services.ports("ssh") == frozenset()


@pytest.mark.skipif(not SERVICES.exists(), reason="this system has no /etc/services")
def test_the_file_of_this_system_can_be_parsed() -> None:
    services = Services()
    assert services.name(22, "tcp") == "ssh"
    assert 53 in services.ports("domain")
