"""The HTTP sink's page says what there is."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import tomli

from ebpfmon import SinkSettings
from ebpfmon.config import settings as config
from ebpfmon.plugins import registry
from ebpfmon_sinks.http_json import listen, rows, serve, stream
from ebpfmon_sinks.http_json.query import QueryError
from ebpfmon_sinks.http_json.routes import ROUTES
from ebpfmon_sinks.http_json.settings import HttpJsonSettings

PAGE = (Path(__file__).parents[2] / "ebpfmon_sinks" / "http_json" / "README.md").read_text()


def test_the_settings_on_the_page_are_all_of_them_with_their_defaults() -> None:
    sample = tomli.loads(PAGE.partition("```toml\n")[2].partition("```")[0])
    shown = config.check(sample, "README.md", registry.discover()).sinks
    assert shown == (HttpJsonSettings(name="http"), HttpJsonSettings(name="push", push_url=shown[1].push_url))  # type: ignore[attr-defined]
    assert {key for sink in sample["sinks"] for key in sink} == {
        "type", "name", *HttpJsonSettings.__struct_fields__
    } - ({*SinkSettings.__struct_fields__} - {"name"})  # fmt: skip
    assert msgspec.to_builtins(shown[0])["push_batch"] == 1


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.name)
def test_the_page_has_every_path_with_its_parameters(route: object) -> None:
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| `{route.path}` |"))  # type: ignore[attr-defined]
    assert set(re.findall(r"`\?(\w+)=", line)) == {p.name for p in route.parameters}  # type: ignore[attr-defined]
    assert ("no token" in line) is route.open  # type: ignore[attr-defined]


def test_the_bounds_on_the_page_are_the_ones_that_hold() -> None:
    top = next(p for r in ROUTES for p in r.parameters if p.name == "top")
    with pytest.raises(QueryError) as caught:
        top.parse("0")
    assert str(caught.value) in PAGE
    text = " ".join(PAGE.split())
    assert f"There may be {listen.CONNECTIONS} connections, {stream.CLIENTS} of them streams" in text
    assert f"for {listen.IDLE_S:.0f} s is closed" in text
    assert f"for {serve._WRITE_S:.0f} s." in text
    assert stream.WAITING == 4
    assert "four snapshots behind" in text
    assert serve._INTERVALS == 3
    assert all(f"`{name}`" in PAGE for name in rows.SUMS)
