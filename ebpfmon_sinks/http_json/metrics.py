"""Charts as Prometheus metrics, by one rule for every probe.

The chart `ebpf.io` of calls/s becomes the counter `ebpfmon_io_calls_total{dimension="read"}`; by application the label
is `app`. Levels are gauges, and so are differences, which may fall. Units are base units. Charts of scope `keys` are
left out: their keys are remote addresses, whose number has no bound, and their totals begin anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from ebpfmon import Chart, ChartValues, Kind, Scope, Snapshot, Value

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
    found: dict[str, tuple[Chart, dict[tuple[str, str], float]]] = {}
    for values in snapshot.charts:
        if values.chart.scope is Scope.KEYS:
            continue
        name, times, by = name_of(values.chart)
        first, series = found.setdefault(name, (values.chart, {}))
        if is_counter(first) is is_counter(values.chart):  # else one scrape would have two types of one name
            _add(series, values, times, by)
    for name, (chart, series) in found.items():
        counter = is_counter(chart)
        metric = Metric(name, f"{chart.title} ({chart.id}).", "counter" if counter else "gauge", _unit(name))
        for (label, whose), value in series.items():
            metric.add_sample(f"{name}_total" if counter else name, {label: whose}, value)
        yield metric


def _add(series: dict[tuple[str, str], float], values: ChartValues, times: int, by: int) -> None:
    """Two of one name would make a scrape fail: they are one."""
    label = "app" if values.chart.scope is Scope.APPS else "dimension"
    for value in values.values:
        whose = value.dimension.name.encode(errors="replace").decode()
        amount = _amount(values.chart, value) * times
        series[label, whose] = series.get((label, whose), 0) + (amount / by if by > 1 else amount)


def _amount(chart: Chart, value: Value) -> int | float:
    return value.total if chart.kind is Kind.COUNTER else value.delta


def _unit(name: str) -> str:
    """OpenMetrics' UNIT: the metric's name must end with it."""
    return next((unit for unit in ("seconds", "bytes", "ratio") if name.endswith(f"_{unit}")), "")
