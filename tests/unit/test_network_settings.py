"""The settings of the network viewer, their errors, and the maps and rodata that they set up."""

from __future__ import annotations

import errno
import logging
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli

from ebpfmon import SettingsError, config
from ebpfmon.plugins.registry import discover
from ebpfmon_network_viewer import settings as settings_module
from ebpfmon_network_viewer.destinations import TCP, Inbound, Outbound
from ebpfmon_network_viewer.listening import Listening
from ebpfmon_network_viewer.settings import NetworkViewerSettings, setup

FOUND = discover()
NINES = "9" * 5000  # more digits than int() converts
PRIVATE = "!127.0.0.0/8 !::1 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7"
NAMESPACE = 4026531840
NOT_AN_ADDRESS = "not an address, a range (a-b), a network (a/n), or *"


@pytest.fixture(autouse=True)
def listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the listeners of this machine."""
    monkeypatch.setattr(settings_module, "ephemeral_ports", lambda: range(50000, 60000))

    def listening(*, ephemeral: range) -> Listening:
        assert ephemeral == range(50000, 60000)
        return Listening({(NAMESPACE, 443)}, {1075})

    monkeypatch.setattr(settings_module, "listening", listening)


def read(text: str) -> NetworkViewerSettings:
    """Return the settings of a file with these lines in the section of the network viewer."""
    checked = config.validate({"plugins": {"network_viewer": tomli.loads(text)}}, "e.toml", FOUND)
    settings = checked.plugins["network_viewer"]
    assert isinstance(settings, NetworkViewerSettings)
    return settings


def network(address: str, length: int) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    mapped = packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed
    return struct.pack("=I", length + 8 * (16 - len(packed))) + mapped


def test_the_defaults_show_private_networks_with_service_names() -> None:
    made = read("")
    assert {name: getattr(made, name) for name in made.__struct_fields__} == {
        "enabled": True, "table_size": 16384, "maximum_dimensions": 500, "resolve_hostname_ips": False,
        "resolve_service_names": True, "ports": "*", "hostnames": "*", "ips": PRIVATE,
        "service_name": {"19999": "Netdata"},
    }  # fmt: skip
    assert made == NetworkViewerSettings()


@pytest.mark.parametrize(
    ("text", "key", "error"),
    [
        ('ips = "10.0.0.0/33"', "ips", f"'10.0.0.0/33': {NOT_AN_ADDRESS}"),
        ('ips = "10.0.0.9-10.0.0.1"', "ips", "'10.0.0.9-10.0.0.1': the range ends before it begins"),
        ('ips = "fe80::1%eth0"', "ips", "'fe80::1%eth0': an address must not have a zone (%...)"),
        ("ips = 5", "ips", "expected a string, got an integer"),
        ('ports = "0"', "ports", "'0': a port must be between 1 and 65535"),
        ('ports = "x"', "ports", "'x': not a port, a range of ports (a-b), a known service, or *"),
        ('ports = "! !80"', "ports", "'!!80': a ! must stand once, before the word that it excludes"),
        ('hostnames = "a !"', "hostnames", "'!': a ! must stand once, before the word that it excludes"),
        ('service_name = {0 = "x"}', "service_name", "'0': a port must be between 1 and 65535"),
        ('service_name = {65536 = "x"}', "service_name", "'65536': a port must be between 1 and 65535"),
        ('service_name = {"80/tcp" = "x"}', "service_name", "'80/tcp': a port must be between 1 and 65535"),
        ('service_name = {"\u00b2" = "x"}', "service_name", "'\u00b2': a port must be between 1 and 65535"),
        (f'service_name = {{{NINES} = "x"}}', "service_name", f"'{NINES}': a port must be between 1 and 65535"),
        ("service_name = {80 = 5}", "service_name", "expected a string, got an integer"),
        ("service_name = 80", "service_name", "expected a table, got an integer"),
        ("maximum_dimensions = 1", "maximum_dimensions", "1: expected an integer from 2 to 10000"),
        ("maximum_dimensions = 10001", "maximum_dimensions", "10001: expected an integer from 2 to 10000"),
        ("resolve_hostname_ips = 1", "resolve_hostname_ips", "expected a boolean, got an integer"),
        ('resolve_service_names = "yes"', "resolve_service_names", "expected a boolean, got a string"),
        ("table_size = 0", "table_size", "0: expected an integer from 1 to 1048576"),
        ("maximum_dimension = 9", "maximum_dimension", "no such setting: did you mean 'maximum_dimensions'?"),
    ],
    ids=lambda value: repr(value[:40]),
)  # fmt: skip
def test_an_error_names_the_key_and_what_was_expected(text: str, key: str, error: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(text)
    # Errors of __post_init__() have a colon before the key and not a dot.
    path = str(caught.value).replace("network_viewer: ", "network_viewer.", 1)
    assert path == f"e.toml: plugins.network_viewer.{key}: {error}"


def test_a_port_can_be_selected_by_the_name_that_the_user_gave_it() -> None:
    made = setup(read('ports = "mine"\nservice_name = {70 = "mine", 1000 = "mine"}'))
    assert made.rodata["cfg_any_port"] == 0
    assert made.maps["network_ports"] == {
        struct.pack("=I", n): struct.pack("<Q", 1 << b) for n, b in ((1, 6), (15, 40))
    }


def test_selecting_everything_takes_no_elements_of_maps() -> None:
    made = setup(read('ips = "*"'))
    assert made.rodata == {"cfg_any_port": 1, "cfg_any_address": 1}
    assert (made.maps["network_ports"], made.maps["network_networks"]) == ({}, {})


def test_the_selected_networks_become_ipv6_prefixes() -> None:
    made = setup(read(""))
    assert made.rodata == {"cfg_any_port": 1, "cfg_any_address": 0}
    expected = [("10.0.0.0", 8), ("172.16.0.0", 12), ("192.168.0.0", 16), ("fc00::", 7)]
    assert made.maps["network_networks"] == {network(*each): b"\1" for each in expected}


def test_selecting_nothing_leaves_maps_and_rodata_empty() -> None:
    made = setup(read('ips = "!*"\nports = "!*"'))
    assert made.rodata == {"cfg_any_port": 0, "cfg_any_address": 0}
    assert (made.maps["network_ports"], made.maps["network_networks"]) == ({}, {})


def test_existing_listeners_and_servers_are_put_into_the_maps() -> None:
    maps = setup(read("")).maps
    assert maps["network_listeners"] == {struct.pack("=IHH", NAMESPACE, 443, 6): bytes(16)}
    assert maps["network_servers"] == {struct.pack("=Q", 1075): b"\1"}


@pytest.mark.parametrize(("dimensions", "shown"), [(2, 0), (3, 0), (4, 1), (5, 1), (500, 249), (10_000, 4999)])
def test_a_chart_never_has_more_dimensions_than_the_maximum(dimensions: int, shown: int) -> None:
    labels = setup(read(f"maximum_dimensions = {dimensions}")).labels
    assert {stem: source.maximum for stem, source in labels.items()} == {"outbound": shown, "inbound": shown}
    assert 2 * (shown + 1) <= dimensions


@pytest.mark.parametrize(("resolve", "expected"), [("true", "mine"), ("false", "443")])
def test_ports_have_names_unless_resolve_service_names_is_false(resolve: str, expected: str) -> None:
    labels = setup(read(f'resolve_service_names = {resolve}\nservice_name = {{443 = "mine"}}')).labels
    assert isinstance(labels["outbound"], Outbound)
    inbound = labels["inbound"]
    assert isinstance(inbound, Inbound)
    rows = np.array([(443, TCP)], [("port", "u4"), ("protocol", "u4")])
    assert inbound.values(rows) == [("443", "TCP")]
    assert inbound.names(rows) == [(expected, "TCP")]


def test_selecting_host_names_without_resolving_them_is_a_warning_that_names_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tmp_path / "e.toml"
    settings.write_text('[plugins.network_viewer]\nhostnames = "*.example"\n')
    with caplog.at_level(logging.WARNING):
        config.read(settings, FOUND)
    expected = "plugins.network_viewer.hostnames: it has no effect while resolve_hostname_ips is false"
    assert caplog.messages == [f"{settings}: {expected}"]
    assert read("").without_effect == ()


def test_resolving_host_names_without_aiodns_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent: Any = None
    monkeypatch.setitem(sys.modules, "aiodns", absent)
    with pytest.raises(SettingsError, match=r"^plugins\.network_viewer\.resolve_hostname_ips: .*ebpfmon\[dns\]"):
        setup(read("resolve_hostname_ips = true"))


@pytest.mark.parametrize("name", ["listening", "ephemeral_ports"])
def test_a_lack_of_descriptors_refuses_the_settings_instead_of_hiding_listeners(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(settings_module, name, fails)
    with pytest.raises(SettingsError, match=r"cannot list the sockets that listen already: too many open files$"):
        setup(read(""))


def test_without_proc_the_network_viewer_works_and_says_what_it_misses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "no such file")

    monkeypatch.setattr(settings_module, "listening", fails)
    assert setup(read("")).maps["network_listeners"] == {}
    assert caplog.messages == [
        "plugins.network_viewer: cannot list the sockets that listen already: no such file; connections to them count "
        "as outbound"
    ]


@pytest.mark.parametrize(("error", "is_refused"), [(errno.EMFILE, True), (errno.EACCES, False)])
def test_service_names_that_cannot_be_read_are_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int, is_refused: bool
) -> None:
    def fails(*_: object, **__: object) -> str:
        raise OSError(error, "a reason")

    monkeypatch.setattr("ebpfmon_network_viewer.services.read_text", fails)
    settings = read("")
    problem = "plugins.network_viewer: cannot read '/etc/services': a reason"
    if is_refused:
        with pytest.raises(SettingsError, match=f"^{problem}$"):
            setup(settings)
    else:
        setup(settings)
        assert caplog.messages == [f"{problem}; the ports in it have no names"]
