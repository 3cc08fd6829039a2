"""What the HTTP sink lets itself be told."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import tomli

from ebpfmon.config import settings as config
from ebpfmon.errors import SettingsError
from ebpfmon.plugins import registry
from ebpfmon_sinks.http_json.settings import HttpJsonSettings

FOUND = registry.discover()
TLS = {"tls_certificate": "/c.pem", "tls_key": "/k.pem"}


def check(**sink: Any) -> HttpJsonSettings:
    (settings,) = config.check({"sinks": [{"type": "http_json", **sink}]}, "x.toml", FOUND).sinks
    assert isinstance(settings, HttpJsonSettings)
    return settings


def test_it_serves_this_machine_alone_by_default() -> None:
    settings = check()
    assert (settings.host, settings.port, settings.is_local) == ("127.0.0.1", 9797, True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.8.7", "::1", "localhost", "::ffff:127.0.0.1"])
def test_a_loopback_address_needs_nothing(host: str) -> None:
    assert check(host=host).is_local


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1", "fe80::1", "host.example", "local"])
def test_another_address_needs_a_token_and_tls_or_that_it_is_said_to_be_insecure(host: str) -> None:
    with pytest.raises(SettingsError, match=r"needs token_file and tls_certificate and tls_key, or insecure = true"):
        check(host=host)
    with pytest.raises(SettingsError, match=r"sinks\[0\].host: other machines reach '.*': that needs token_file, or"):
        check(host=host, **TLS)
    with pytest.raises(SettingsError, match="that needs tls_certificate and tls_key, or insecure = true"):
        check(host=host, token_file="/t")
    assert not check(host=host, token_file="/t", **TLS).is_local
    assert not check(host=host, insecure=True).is_local


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"host": ""}, "host: expected an address"),
        ({"port": 65536}, "port: expected int <= 65535"),
        ({"tls_key": "/k"}, "tls_key: means nothing without tls_certificate"),
        ({"tls_certificate": "/c"}, "tls_certificate: means nothing without tls_key"),
        ({"push_batch": 2}, "push_batch: means nothing without push_url"),
        ({"push_headers": {"a": "b"}}, "push_headers: means nothing without push_url"),
        ({"push_url": "http://h/", "port": 1}, "port: a sink with push_url does not serve: have another one for that"),
        ({"push_url": "ftp://h/"}, "push_url: expected http://HOST/PATH"),
        ({"push_url": "http:///x"}, "push_url: expected http://HOST/PATH"),
        ({"push_url": "http://h/a b"}, "push_url: expected http://HOST/PATH"),
        ({"push_url": "http://h:x/"}, "push_url: Port could not be cast"),
        ({"push_url": "http://[::/"}, "push_url: Invalid IPv6 URL"),
        ({"push_url": "https://u:p@h/"}, "push_url: a password would be seen"),
        ({"push_url": "http://h/", "push_batch": 2}, "push_batch: more than one snapshot in a request needs"),
        ({"push_url": "http://h/", "push_timeout_s": 10}, "push_timeout_s: expected float <= 9"),
        ({"push_url": "http://h/", "push_format": "xml"}, "push_format: 'xml': expected one of json, ndjson"),
        ({"push_url": "http://h/", "push_headers": {"A b": "c"}}, "push_headers: 'A b': no header"),
        ({"push_url": "http://h/", "push_headers": {"Host": "c"}}, "push_headers: 'Host': no header that can be set"),
        ({"push_url": "http://h/", "push_headers": {"A": "b\r\nc: d"}}, "push_headers: 'A': its value must be"),
        ({"push_url": "http://h/", "push_token_file": "/t"}, "push_url: a token needs https://, or insecure = true"),
        ({"push_url": "http://h/", "push_headers": {"authorization": "x"}}, "push_url: a token needs https://"),
        (
            {"push_url": "https://h/", "push_token_file": "/t", "push_headers": {"Authorization": "x"}},
            "push_headers: 'Authorization': push_token_file sets it already",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_key_and_the_reason(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check(**given)
    assert str(caught.value).startswith(f"x.toml: sinks[0].{said}")


@pytest.mark.parametrize("url", ["https://h/", "http://127.0.0.1:1/x?y=z", "http://[::1]:1/"])
def test_a_token_goes_over_tls_or_stays_in_this_machine(url: str) -> None:
    assert check(push_url=url, push_token_file="/t", push_headers={"X-Team": "a b"}).push_url == url
    assert check(push_url="http://h/", push_token_file="/t", insecure=True)


def test_who_serves_and_posts_has_two_sinks() -> None:
    raw = [{"type": "http_json"}, {"type": "http_json", "name": "push", "push_url": "https://h/"}]
    assert len(config.check({"sinks": raw}, "x.toml", FOUND).sinks) == 2


def test_the_settings_can_be_shown_and_read_again() -> None:
    settings = config.check({"sinks": [{"type": "http_json", "push_url": "https://h/"}]}, "x", FOUND)
    text = "\n".join(config.to_toml(settings))
    assert config.check(tomli.loads(text), "x", FOUND).sinks == settings.sinks


def test_who_does_not_use_it_does_not_pay_for_its_libraries() -> None:
    script = (
        "import sys; from ebpfmon import registry; assert 'http_json' in registry.discover().sinks;"
        "assert not {'aiohttp', 'prometheus_client', 'ssl'} & sys.modules.keys() - {'ssl'}"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
