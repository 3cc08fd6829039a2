"""The pages of sinks have all their options, with the defaults, and say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import tomli

from ebpfmon import Chart, Dimension, config
from ebpfmon.plugins import registry
from ebpfmon_sinks.plugins_d import relay
from ebpfmon_sinks.plugins_d import sink as plugins_d
from ebpfmon_sinks.statsd.lines import Names, to_datagrams
from ebpfmon_sinks.statsd.settings import StatsdSettings, Tags
from tests.unit.support import data, snapshot

SINKS = Path(__file__).parents[2] / "ebpfmon_sinks"
REFERENCE = (SINKS.parent / "docs" / "reference" / "settings.md").read_text()
FOUND = registry.discover()


def page(name: str) -> str:
    return (SINKS / name / "README.md").read_text()


@pytest.mark.parametrize("type_", FOUND.sinks)
def test_a_page_has_every_option_with_its_default_and_the_page_of_settings_links_to_it(type_: str) -> None:
    settings = FOUND.sinks[type_]
    (sample,) = tomli.loads(page(type_).partition("```toml\n")[2].partition("```")[0])["sinks"]
    assert set(sample) == {"type", *settings.__struct_fields__}
    (shown,) = config.validate({"sinks": [sample]}, f"{type_}.md", FOUND).sinks
    needed = {f.name: sample[f.name] for f in msgspec.structs.fields(settings) if f.required}  # These have no default.
    assert shown == settings(name=type_, **needed)
    assert f"(../../ebpfmon_sinks/{type_}/README.md)" in REFERENCE


@pytest.mark.parametrize("tags", ["none", "datadog", "influx", "graphite"])
def test_the_lines_on_the_statsd_page_are_those_that_are_sent(tags: Tags) -> None:
    def shown(id_: str, *dimensions: Dimension, labels: tuple[str, ...] = ()) -> Chart:
        return Chart(
            id=id_, title="T", units="calls/s", family="F", priority=1, labels=labels, dimensions=dimensions
        )  # fmt: skip

    host, sent = ("443", "TCP", "192.0.2.1"), Dimension("sent", "sent", ("f",))
    charts = [
        data(shown("ebpf.io", Dimension("read", "read", ("f",))), 5),
        data(shown("apps.file_open", Dimension.value("f"), labels=("application",)), series={("web",): [5]}),
        data(
            shown("ebpf.outbound_bytes", sent, labels=("port", "protocol", "address")), series={host: [5]},
            names={host: ("https", "TCP", "example.org")},
        ),
    ]  # fmt: skip
    (datagram,) = to_datagrams(snapshot(charts=charts), Names(tags), StatsdSettings(tags=tags))
    row = next(line for line in page("statsd").splitlines() if line.startswith(f"| `{tags}` |"))
    assert [line.replace("\\|", "|") for line in re.findall(r"`([^`]*)`", row)[1:]] == datagram.decode().splitlines()


def test_the_numbers_on_the_netdata_page_are_those_in_the_code() -> None:
    text = page("plugins_d")
    assert f"Up to {plugins_d._MAX_RELAYS} relays" in text
    assert f"nothing for {plugins_d._STALL_LIMIT_S:.0f} s is cut off" in text
    assert f'socket = "{relay.DEFAULT_SOCKET}"' in text
