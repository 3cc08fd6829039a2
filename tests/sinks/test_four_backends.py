"""One daemon feeds Netdata, etsy's StatsD, Netdata's StatsD, Prometheus and a log for a minute.

Each backend has exactly the numbers of the log, and the log those of a known workload.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ebpfmon_sinks.http_json.metrics import name_of, type_of
from tests.kernel.support import counts_of
from tests.sinks.etsy import dropped, gauges, names, summed, with_prefix
from tests.sinks.minute import COUNTERS, PLAN, TO_ETSY, TO_NETDATA, WATCHED_S, Minute, require, watched
from tests.sinks.plugins_d_values import compare, declarations, dimension_of
from tests.sinks.prometheus import rate
from tests.sinks.support import Lines, Number, numbers_of, program, until

pytestmark = pytest.mark.timeout(400)  # includes the fixture, which takes a minute


@pytest.fixture(scope="module")
def minute(workload: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minute]:
    with watched(workload, tmp_path_factory.mktemp("minute")) as seen:
        yield seen


def test_no_sink_failed_or_lost_anything(minute: Minute) -> None:
    # On a busy machine http_json starts late, because its libraries are large. It keeps only the newest snapshot.
    sinks = [sink for sink in minute.sinks if sink != "http_json"]
    for what in ("errors", "dropped"):
        assert {sink: minute.daemon.of_sink(what, sink) for sink in sinks} == dict.fromkeys(sinks, 0), what
    assert sum(line["elapsed_s"] for line in minute.lines) >= WATCHED_S


def test_a_sink_with_its_own_interval_has_the_sums(minute: Minute) -> None:
    def name(number: Number) -> str:
        return f"{number.chart['id']} {number.role} {number.labels} {number.id}"

    assert (
        len({line["time"] // 5 for line in minute.fives[:-1]}) == len(minute.fives) - 1
    )  # The last interval may be shorter.
    # A slow sink loses what it has not written when the daemon stops, so only the common lines are compared.
    fives = minute.fives[:-1]
    lines = [line for line in minute.lines if line["time"] <= fives[-1]["time"]]
    of_fives, of_lines = summed(fives, name), summed(lines, name)
    # A difference that rises and falls within five seconds is 0 in the sums.
    assert of_fives == pytest.approx({key: value for key, value in of_lines.items() if value or key in of_fives})
    assert gauges(fives, name) == gauges(lines, name)


def test_netdata_has_every_chart_as_it_is_declared(minute: Minute) -> None:
    charts = {id_: c for id_, c in require(minute.netdata).json("charts")["charts"].items() if c["plugin"] == "ebpfmon"}
    shown = {c["id"]: c for line in minute.lines for c in line["charts"] if c["series"]}
    declared = declarations(enabled=True)
    assert {*declared} <= {*shown}, "a chart of the probes is missing"
    assert {*charts} == {*shown}
    for id_, chart in shown.items():
        has = charts[id_]
        assert has["title"] == f"{chart['title']} ({id_})"  # Netdata shows all titles like this
        assert (has["units"], has["family"], has["context"]) == (chart["units"], chart["family"], id_)
        assert has["chart_type"] == ("stacked" if any(s["role"] == "other" for s in chart["series"]) else "line")
        assert (has["plugin"], has["module"], has["update_every"]) == ("ebpfmon", chart["family"], 1)
        if id_ in declared:
            assert has["priority"] == declared[id_].priority
        if not chart["labels"]:
            dimensions = {dimension_of(n): n.name for n in numbers_of({"charts": [chart]})}
            assert {i: d["name"] for i, d in has["dimensions"].items()} == dimensions


def test_netdata_collected_and_shows_the_numbers_of_the_log_second_by_second(
    minute: Minute, record_property: Any
) -> None:
    compared = compare(require(minute.netdata), minute.polls, minute.lines)
    record_property("netdata", str(compared))
    print(compared)
    assert compared.updates >= 5  # on a busy machine most updates cannot be read whole
    assert compared.numbers > 100 * compared.updates
    # What Netdata shows can only be compared if it collected all in time. If an update comes a second late, it goes
    # by its own clock for some time.
    if compared.updates > 0.9 * WATCHED_S and compared.delay_s < 0.9:
        assert compared.points > 1000
        # If updates are late, Netdata moves a part of an amount to the next second.
        assert compared.wrong <= 0.02 * compared.right


def test_netdata_logs_no_problem(minute: Minute) -> None:
    assert require(minute.netdata).complaints() == []
    connected = [line for line in require(minute.netdata).error_log() if "PLUGINSD[ebpfmon] : connected to" in line]
    assert len(connected) == 1


State = tuple[dict[str, float], dict[str, float]]
"""Counters and gauges of one sink, by name."""


def expected(lines: Lines, sink: str, tags: str) -> list[State]:
    """Return the states that a server may have: with or without the last interval, for which there is little time."""
    name = names(sink, tags)
    return [(summed(some, name), gauges(some, name)) for some in (lines, lines[:-1])]


def compare_states(found: State, states: Sequence[State]) -> None:
    assert len(states[0][0]) > 60
    if found not in states:
        assert found == states[0]


@pytest.mark.parametrize("sink", TO_ETSY)
def test_etsys_daemon_has_exactly_the_numbers_of_the_log(minute: Minute, sink: str) -> None:
    counters, gauges = require(minute.etsy).ask("counters"), require(minute.etsy).ask("gauges")
    protocol, _, tags = TO_ETSY[sink]
    states = expected(minute.lines, sink, tags)
    assert counters["statsd.bad_lines_seen"] == 0
    if protocol == "udp" and (lost := dropped(require(minute.etsy).port)):  # its process did not run for some seconds
        print(f"the kernel dropped {lost} datagrams on their way to etsy's daemon")
        assert all(with_prefix(sink, counters).get(n, 0) <= value for n, value in states[0][0].items() if value > 0)
        return
    compare_states((with_prefix(sink, counters), with_prefix(sink, gauges)), states)
    if tags == "none":
        assert states[0][0][f"{sink}.apps.process_create.shells"] > 10
        for host in ("127_0_0_1", "___1_"):
            assert any(n.startswith(f"{sink}.ebpf.outbound_bytes.") and host in n for n in states[0][0])


@pytest.mark.parametrize("sink", TO_NETDATA)
def test_netdatas_statsd_has_exactly_the_numbers_of_the_log(minute: Minute, sink: str) -> None:
    lines = [{**line, "charts": [c for c in line["charts"] if _is_chosen(c["id"])]} for line in minute.lines]
    states = expected(lines, sink, "none")
    if sink == "ndudp" and (lost := dropped(require(minute.netdata).statsd)):
        print(f"the kernel dropped {lost} datagrams on their way to Netdata")
        return

    def has() -> State:
        counters, gauges = (
            with_prefix(sink, require(minute.netdata).of_statsd(type_)) for type_ in ("counter", "gauge")
        )
        return counters, gauges

    with suppress(AssertionError):  # it updates its values once a second
        until(lambda: has() in states, "all that was sent", 20)
    compare_states(has(), states)


def _is_chosen(chart: str) -> bool:
    return chart.startswith(("ebpf.", "apps.")) and not chart.startswith(("ebpf.outbound_", "ebpf.inbound_"))


@pytest.mark.parametrize("metric", COUNTERS)
def test_prometheus_has_exactly_the_counts_of_the_workload_and_its_rate(minute: Minute, metric: str) -> None:
    at, seconds = minute.measured
    spent = f"{round(seconds)}s"
    (series,) = require(minute.prometheus).ask(f'{metric}{{application="busy"}}[{spent}]', at)
    values = [float(value) for _, value in series["values"]]
    expected_count = minute.runs * counts_of(PLAN)[COUNTERS[metric]]
    assert minute.runs >= 4
    assert values == sorted(values), "the counter decreased"
    assert values[-1] - minute.counted_once[metric] == expected_count
    assert values[0] == minute.counted_once[metric]
    (resets,) = require(minute.prometheus).ask(f'resets({metric}{{application="busy"}}[{spent}])', at)
    assert resets["value"][1] == "0"
    (found,) = require(minute.prometheus).ask(f'rate({metric}{{application="busy"}}[{spent}])', at)
    assert float(found["value"][1]) == pytest.approx(rate(series["values"], at, seconds), rel=1e-6)
    # This is the workload's rate, plus what Prometheus extrapolates at the ends, where there was no scrape.
    assert 1 <= float(found["value"][1]) * 1.001 / (expected_count / seconds) < 1.2


FROM_PROMETHEUS = {"__name__", "instance", "job"}


def labels_of(number: Number) -> frozenset[tuple[str, str]]:
    """Return the labels of a number in Prometheus."""
    return frozenset(
        [*zip(number.chart["labels"], number.labels, strict=True), *(("dimension", c) for c in number.column)]
    )


def test_every_number_in_prometheus_is_that_of_the_log_in_the_same_interval(minute: Minute) -> None:
    at, seconds = minute.measured
    spent = f"{round(seconds)}s"
    logged = {line["time"]: {(n.chart["id"], labels_of(n)): n.total for n in numbers_of(line)} for line in minute.lines}
    (clock,) = require(minute.prometheus).ask(f"ebpfmon_snapshot_time_seconds[{spent}]", at)
    interval_of = {scraped: float(when) for scraped, when in clock["values"]}
    print(f"{len(interval_of)} scrapes of {len({*interval_of.values()})} intervals in {spent}")
    assert len({*interval_of.values()}) >= seconds / 4  # on a busy machine some scrapes take too long
    compared = 0
    for chart in declarations(enabled=True).values():
        name = f"{name_of(chart)}{'_total' if type_of(chart) == 'counter' else ''}"
        if chart.unbounded:
            assert not require(minute.prometheus).ask(name, at)
            continue
        for series in require(minute.prometheus).ask(f"{name}[{spent}]", at):
            labels = frozenset(pair for pair in series["metric"].items() if pair[0] not in FROM_PROMETHEUS)
            for scraped, value in series["values"]:
                assert logged[interval_of[scraped]][chart.id, labels] == float(value), (name, labels)
                compared += 1
    assert compared > 50 * len(interval_of)


def test_promtool_finds_no_problem(minute: Minute) -> None:
    tool = program("promtool", "promtool")
    done = subprocess.run([tool, "check", "metrics"], input=minute.metrics, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
