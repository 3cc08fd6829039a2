"""Charts as Prometheus metrics, by one rule for every probe.

The chart `ebpf.io` of calls/s becomes the counter `ebpfmon_io_calls_total{dimension="read"}`; by application the label
is `app`, by key what the chart calls its keys (`disk`). Levels are gauges, and so are differences, which may fall;
charts with buckets are histograms. Units are base units. Charts by key that call their keys nothing are left out: those
are remote addresses, whose number has no bound, and their totals begin anew.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ebpfmon import Chart, ChartValues, Dimension, Kind, Scope, Snapshot, Value, histograms

Labels = tuple[tuple[str, str], ...]
TEXT, OPENMETRICS = CONTENT_TYPE_PLAIN_0_0_4, openmetrics.CONTENT_TYPE_LATEST
_BASE_UNITS = {
    "milliseconds": ("seconds", 1, 1000), "microseconds": ("seconds", 1, 10**6), "nanoseconds": ("seconds", 1, 10**9),
    "kB": ("bytes", 10**3, 1), "MB": ("bytes", 10**6, 1), "GB": ("bytes", 10**9, 1), "%": ("ratio", 1, 100),
}  # fmt: skip


def render(snapshot: Snapshot | None, streams: int, cut: int, *, as_openmetrics: bool) -> bytes:
    """All metrics. `streams`: how many clients are being streamed to, and how many were cut off."""
    registry = CollectorRegistry()
    registry.register(_Charts(snapshot, streams, cut))
    ProcessCollector(registry=registry)
    generate = openmetrics.generate_latest if as_openmetrics else generate_latest
    return generate(registry)


def name_of(chart: Chart) -> tuple[str, int, int]:
    """What a chart's metric is called, without `_total`, and by which quotient its values become base units."""
    unit, times, by = _BASE_UNITS.get(chart.units.removesuffix("/s"), (chart.units.removesuffix("/s"), 1, 1))
    name, unit = _word(chart.id.removeprefix("ebpf.").removeprefix("ebpfmon.")), _word(unit)
    singular = unit.removesuffix("s")
    if name != unit and name.endswith(f"_{singular}"):
        name = name.removesuffix(f"_{singular}")
    if unit and name != unit and not name.endswith(f"_{unit}"):
        name += f"_{unit}"
    return f"ebpfmon_{name}", times, by


def is_counter(chart: Chart) -> bool:
    """Whether its totals never fall."""
    return chart.kind is Kind.COUNTER and not any(d.minus for d in chart.dimensions)


def _word(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "_", text).strip("_")


class _Charts(Collector):
    """Makes metrics of one snapshot."""

    def __init__(self, snapshot: Snapshot | None, streams: int, cut: int) -> None:
        self._snapshot, self._streams, self._cut = snapshot, streams, cut

    def collect(self) -> Iterator[Metric]:
        """The snapshot's charts, then the sink itself."""
        if self._snapshot:
            yield from _of_charts(self._snapshot)
            yield _one(
                "ebpfmon_snapshot_time_seconds", "When the interval ended.", round(self._snapshot.time_s, 3), "seconds"
            )
            yield _one(
                "ebpfmon_snapshot_elapsed_seconds", "How long it was.", round(self._snapshot.elapsed_s, 4), "seconds"
            )
            yield _one("ebpfmon_snapshot_complete", "Whether all could be read.", int(self._snapshot.complete))
        yield _one("ebpfmon_http_streams", "Clients that are being streamed to.", self._streams)
        cut = Metric("ebpfmon_http_streams_cut", "Clients that were cut off, as they read too slowly.", "counter")
        cut.add_sample("ebpfmon_http_streams_cut_total", {}, self._cut)
        yield cut
        build = Metric("ebpfmon_build", "Which ebpfmon this is.", "info")
        build.add_sample("ebpfmon_build_info", {"version": version("ebpfmon")}, 1)
        yield build


def _one(name: str, documentation: str, value: float, unit: str = "") -> Metric:
    metric = Metric(name, documentation, "gauge", unit)
    metric.add_sample(name, {}, value)
    return metric


def _of_charts(snapshot: Snapshot) -> Iterator[Metric]:
    found: dict[str, tuple[Chart, dict[Labels, float]]] = {}
    of_buckets: dict[str, Metric] = {}
    for values in snapshot.charts:
        if values.chart.scope is Scope.KEYS and not values.chart.key:
            continue
        if values.chart.buckets:
            metric = _histogram(values)
            of_buckets.setdefault(metric.name, metric)  # else one scrape would have one name twice
            continue
        name, times, by = name_of(values.chart)
        first, series = found.setdefault(name, (values.chart, {}))
        if is_counter(first) is is_counter(values.chart):  # else one scrape would have two types of one name
            _add(series, values, times, by)
    yield from of_buckets.values()
    for name, (chart, series) in found.items():
        if name in of_buckets:
            continue
        counter = is_counter(chart)
        metric = Metric(name, f"{chart.title} ({chart.id}).", "counter" if counter else "gauge", _unit(name))
        for labels, value in series.items():
            metric.add_sample(f"{name}_total" if counter else name, dict(labels), value)
        yield metric


def _add(series: dict[Labels, float], values: ChartValues, times: int, by: int) -> None:
    """Two of one name would make a scrape fail: they are one."""
    templates = values.chart.dimensions
    for n, value in enumerate(values.values):
        labels = _labels(values.chart, templates[n % len(templates)] if templates else value.dimension, value)
        amount = _amount(values.chart, value) * times
        series[labels] = series.get(labels, 0) + (amount / by if by > 1 else amount)


def _labels(chart: Chart, template: Dimension, value: Value) -> Labels:
    """Whose a value is; `template`: the dimension of the chart that it is one of."""
    name = value.dimension.name
    if chart.scope is not Scope.KEYS:
        return (("app" if chart.scope is Scope.APPS else "dimension", _text(name)),)
    if not template.id:
        return ((_word(chart.key), _text(name)),)
    key = name.removesuffix(f"_{template.name}")
    return (_word(chart.key), _text(key)), ("dimension", _text(template.name))


def _histogram(values: ChartValues) -> Metric:
    """Counts and sums since the start, the counts with all that are below."""
    chart, of = values.chart, values.chart.buckets
    assert of
    name, _, _ = name_of(replace(chart, units=of.units))
    in_base_units = (*(_based(bound, of.units) for bound in of.bounds), math.inf)
    bounds = [floatToGoString(bound) for bound in in_base_units]  # type: ignore[no-untyped-call]  # it has no types
    metric = Metric(name, f"{chart.title} ({chart.id}).", "histogram", _unit(name))
    merged: dict[str, tuple[list[int], int]] = {}
    for each in histograms(values):
        counts, total = merged.get(_text(each.name), ([0] * len(bounds), 0))
        counts = [a + value.total for a, value in zip(counts, each.counts, strict=True)]
        merged[_text(each.name)] = counts, total + (each.sum.total if each.sum else 0)
    for key, (counts, total) in merged.items():
        labels = {_word(chart.key): key} if chart.scope is Scope.KEYS else {}
        for bound, count in zip(bounds, accumulate(counts), strict=True):
            metric.add_sample(f"{name}_bucket", {**labels, "le": bound}, count)
        metric.add_sample(f"{name}_count", labels, sum(counts))
        if of.sum:
            metric.add_sample(f"{name}_sum", labels, _based(total, of.sum_units))
    return metric


def _based(amount: float, units: str) -> float:
    """In base units."""
    _, times, by = _BASE_UNITS.get(units, (units, 1, 1))
    return amount * times / by


def _text(name: str) -> str:
    return name.encode(errors="replace").decode()


def _amount(chart: Chart, value: Value) -> int | float:
    return value.total if chart.kind is Kind.COUNTER else value.delta


def _unit(name: str) -> str:
    """OpenMetrics' UNIT: the metric's name must end with it."""
    return next((unit for unit in ("seconds", "bytes", "ratio") if name.endswith(f"_{unit}")), "")
