"""The settings of the HTTP sinks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import tomli

from ebpfmon import SinkSettings, config
from ebpfmon.config.writing import to_toml
from ebpfmon.errors import SettingsError
from ebpfmon.plugins import registry
from ebpfmon_sinks.http_json.settings import HttpJsonSettings
from ebpfmon_sinks.http_push.settings import HttpPushSettings

FOUND = registry.discover()
TLS = {"tls_certificate": "/c.pem", "tls_key": "/k.pem"}
PUSH = {"type": "http_push", "url": "http://h/"}


def check(**sink: Any) -> HttpJsonSettings:
    settings = check_any(type="http_json", **sink)
    assert isinstance(settings, HttpJsonSettings)
    return settings


def check_any(**sink: Any) -> SinkSettings:
    (settings,) = config.validate({"sinks": [sink]}, "x.toml", FOUND).sinks
    return settings


def test_by_default_only_this_machine_can_connect() -> None:
    settings = check()
    assert (settings.host, settings.port, settings.is_local) == ("127.0.0.1", 9797, True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "::1", "localhost", "::ffff:127.0.0.1"])
def test_a_loopback_address_needs_neither_token_nor_tls(host: str) -> None:
    assert check(host=host).is_local


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1", "fe80::1", "host.example", "local"])
def test_any_other_address_needs_a_token_and_tls_or_insecure(host: str) -> None:
    with pytest.raises(
        SettingsError, match=r"so set token_file and tls_certificate and tls_key, or set insecure = true"
    ):
        check(host=host)
    with pytest.raises(SettingsError, match=r"sinks\[0\].host: other machines can reach '.*', so set token_file, or"):
        check(host=host, **TLS)
    with pytest.raises(SettingsError, match="so set tls_certificate and tls_key, or set insecure = true"):
        check(host=host, token_file="/t")
    assert not check(host=host, token_file="/t", **TLS).is_local
    assert not check(host=host, insecure=True).is_local


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"host": ""}, "host: expected an address"),
        ({"port": 65536}, "port: 65536: expected an integer from 0 to 65535"),
        ({"tls_key": "/k"}, "tls_key: needs tls_certificate as well"),
        ({"tls_certificate": "/c"}, "tls_certificate: needs tls_key as well"),
        ({"socket": "run/x"}, "socket: 'run/x': expected an absolute path"),
        ({"socket": "/" + "x" * 107}, "socket: longer than 107 bytes"),
        ({"socket": "/x", "host": "::1"}, "host: the sink listens on socket; remove host"),
        ({"socket": "/x", "port": 1}, "port: the sink listens on socket; remove port"),
        ({"socket": "/x", **TLS}, "tls_certificate: the sink listens on socket; remove tls_certificate"),
        ({"socket_group": "adm"}, "socket_group: needs socket as well"),
        ({"url": "http://h/"}, "url: no such setting"),
        ({**PUSH, "port": 1}, "port: no such setting"),
        ({"type": "http_push"}, "url: this setting is required"),
        ({**PUSH, "url": "ftp://h/"}, "url: expected http://HOST/PATH"),
        ({**PUSH, "url": "http:///x"}, "url: expected http://HOST/PATH"),
        ({**PUSH, "url": "http://h/a b"}, "url: expected http://HOST/PATH"),
        ({**PUSH, "url": "http://h:x/"}, "url: Port could not be cast"),
        ({**PUSH, "url": "http://[::/"}, "url: Invalid IPv6 URL"),
        ({**PUSH, "url": "https://u:p@h/"}, "url: a password in the URL is visible to all who can read the settings"),
        ({**PUSH, "batch": 2}, "batch: more than one snapshot in a request needs"),
        ({**PUSH, "timeout_s": 10}, "timeout_s: 10: expected a number from 0.1 to 9"),
        ({**PUSH, "format": "xml"}, "format: 'xml': expected one of json, ndjson"),
        ({**PUSH, "headers": {"A b": "c"}}, "headers: 'A b': this header cannot be set"),
        ({**PUSH, "headers": {"Host": "c"}}, "headers: 'Host': this header cannot be set"),
        ({**PUSH, "headers": {"A": "b\r\nc: d"}}, "headers: 'A': its value must be"),
        ({**PUSH, "token_file": "/t"}, "url: a token needs https://; or set insecure = true"),
        ({**PUSH, "headers": {"authorization": "x"}}, "url: a token needs https://"),
        (
            {**PUSH, "url": "https://h/", "token_file": "/t", "headers": {"Authorization": "x"}},
            "headers: 'Authorization': token_file sets this header already",
        ),
    ],
)
def test_an_invalid_setting_is_refused_with_the_key_and_the_reason(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_any(**{"type": "http_json", **given})
    assert str(caught.value).removeprefix("x.toml: sinks[0]").removeprefix(".").startswith(message)


@pytest.mark.parametrize("name", ["url", "format", "batch", "gzip", "headers", "token_file", "timeout_s", "ca_file"])
def test_a_former_push_setting_is_an_error_that_names_its_replacement(name: str) -> None:
    assert name in HttpPushSettings.__struct_fields__
    with pytest.raises(SettingsError) as caught:
        check(**{f"push_{name}": "x"})
    instead = f'posting is now a sink of its own; set {name} in a sink with type = "http_push"'
    assert str(caught.value) == f"x.toml: sinks[0].push_{name}: {instead}"


@pytest.mark.parametrize("url", ["https://h/", "http://127.0.0.1:1/x?y=z", "http://[::1]:1/"])
def test_a_token_may_be_sent_over_tls_or_to_this_machine(url: str) -> None:
    push = check_any(type="http_push", url=url, token_file="/t", headers={"X-Team": "a b"})
    assert isinstance(push, HttpPushSettings)
    assert push.url == url
    assert check_any(**PUSH, token_file="/t", insecure=True)


def test_a_unix_socket_needs_no_token_and_the_right_to_change_its_group() -> None:
    assert (check(socket="/x").is_local, check(socket="/x").capabilities) == (True, frozenset())
    assert check(socket="/x", socket_group="adm", token_file="/t").capabilities == {"chown"}
    with pytest.raises(SettingsError, match="/x"):
        config.validate({"sinks": [{"type": "http_json", "name": n, "socket": "/x"} for n in "ab"]}, "x.toml", FOUND)


def test_http_json_and_http_push_can_be_used_together() -> None:
    raw = [{"type": "http_json"}, {"type": "http_push", "url": "https://h/"}]
    assert len(config.validate({"sinks": raw}, "x.toml", FOUND).sinks) == 2


def test_settings_written_as_toml_read_back_as_the_same_settings() -> None:
    settings = config.validate({"sinks": [{"type": "http_push", "url": "https://h/"}]}, "x", FOUND)
    text = to_toml(settings)
    assert config.validate(tomli.loads(text), "x", FOUND).sinks == settings.sinks


def test_listing_the_sinks_does_not_import_the_http_libraries() -> None:
    script = (
        "import sys; import ebpfmon.cli.main; from ebpfmon.plugins import registry;"
        "assert {'http_json', 'http_push'} <= registry.discover().sinks.keys();"
        "assert not {'aiohttp', 'prometheus_client'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
