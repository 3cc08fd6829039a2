"""Every output accepts an unknown kind of chart, and uses only whether it is cumulative."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ebpfmon import Dimension, Kind, Snapshot, to_json
from ebpfmon.model import KINDS
from ebpfmon_sinks.http_json import views
from ebpfmon_sinks.http_json.metrics import choose_encoder, render
from ebpfmon_sinks.log import journal, text
from ebpfmon_sinks.plugins_d.stream import Stream
from ebpfmon_sinks.statsd.lines import Names, to_datagrams
from ebpfmon_sinks.statsd.settings import StatsdSettings
from tests.unit.support import chart, data, snapshot

UP = Dimension("up", "up", ("up",))
GAUGE_LIKE, COUNTER_LIKE = replace(Kind.GAUGE, name="state"), replace(Kind.COUNTER, name="tally")


def snapshot_of_kind(kind: Kind) -> Snapshot:
    """Return a snapshot with two charts of this kind, one without and one with labels."""
    by_disk = chart(UP, id="x.disks", kind=kind, labels=("disk",))
    return snapshot(charts=[data(chart(UP, kind=kind), 5), data(by_disk, series={("sda",): [7]}, other=[0])])


STATE, TALLY = snapshot_of_kind(GAUGE_LIKE), snapshot_of_kind(COUNTER_LIKE)


def test_the_kinds_in_this_file_are_unknown_to_ebpfmon() -> None:
    assert not {GAUGE_LIKE.name, COUNTER_LIKE.name} & {*KINDS}


@pytest.mark.parametrize(
    ("given", "kind", "numbers"),
    [(STATE, "state", {"value": 5}), (TALLY, "tally", {"delta": 5, "total": 1000, "rate": 10.0})],
)
def test_json_has_the_name_of_the_kind_and_totals_if_cumulative(
    given: Snapshot, kind: str, numbers: dict[str, float]
) -> None:
    shown = msgspec.to_builtins(to_json(given))["charts"]
    assert [chart["kind"] for chart in shown] == [kind, kind]
    assert shown[0]["series"][0]["dimensions"] == [{"id": "up", "name": "up", **numbers}]
    declared = msgspec.json.decode(views.charts(given))["charts"]
    assert [chart["kind"] for chart in declared] == [kind, kind]


@pytest.mark.parametrize(
    ("given", "type_", "values"), [(STATE, "gauge", [5, 7, 0]), (TALLY, "counter", [1000, 1000, 1000])]
)
def test_prometheus_gets_a_counter_if_cumulative_and_else_a_gauge(
    given: Snapshot, type_: str, values: list[int]
) -> None:
    encode, _ = choose_encoder("")
    families = {f.name: f for f in text_string_to_metric_families(render(given, 0, 0, encode).decode())}
    found = [families[name] for name in ("ebpfmon_x_io_calls", "ebpfmon_x_disks_calls")]
    assert [family.type for family in found] == [type_, type_]
    assert [sample.value for family in found for sample in family.samples] == values


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        (STATE, ["x.io.up:5|g", "x.disks.sda.up:7|g", "x.disks.other.up:0|g"]),
        (TALLY, ["x.io.up:5|c", "x.disks.sda.up:7|c"]),
    ],
)
def test_statsd_gets_a_counter_if_cumulative_and_else_a_gauge(given: Snapshot, lines: list[str]) -> None:
    (datagram,) = to_datagrams(given, Names("none"), StatsdSettings(prefix=""))
    assert datagram.decode().splitlines() == lines


@pytest.mark.parametrize(("given", "algorithm", "sent"), [(STATE, "absolute", 5000), (TALLY, "incremental", 1 << 32)])
def test_netdata_gets_an_incremental_dimension_if_cumulative_and_else_an_absolute_one(
    given: Snapshot, algorithm: str, sent: int
) -> None:
    stream = Stream(1)
    stream.add(given)
    update = stream.update(1).decode()
    assert f'DIMENSION "up" "up" {algorithm} ' in update
    assert f'SET "up" = {sent}\n' in update


@pytest.mark.parametrize(("given", "number", "of_sda"), [(STATE, 5, 7), (TALLY, 10, 14)])
def test_the_log_has_a_rate_if_cumulative_and_else_the_number(given: Snapshot, number: int, of_sda: int) -> None:
    lines = [line.split() for line in text.render(given, text.Limits(groups=5, processes=5, series=5))]
    assert ["VFS", "Calls", "up", str(number), "calls/s"] in lines
    assert ["sda", str(of_sda)] in lines


@pytest.mark.parametrize("given", [STATE, TALLY], ids=["state", "tally"])
def test_the_journal_has_the_numbers_of_the_interval(given: Snapshot) -> None:
    fields = journal.fields_of(given, journal.Names(), 5, 5)
    assert fields["EBPFMON_X_IO_UP"] == "5"
    assert fields["EBPFMON_X_DISKS"] == '{"sda_up":7}'
