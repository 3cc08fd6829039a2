"""Convert charts to Prometheus metrics, by the same rules for all charts.

The chart `ebpf.io` in calls/s becomes the counter `ebpfmon_io_calls_total{dimension="read"}`. A metric has the labels
of its chart, and `dimension` unless the chart has only one number. Gauges and histograms keep their kind. Differences
become gauges, because they may decrease. Units become base units. Charts with an unlimited number of label values are
left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator
from hashlib import blake2b
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ebpfmon import VALUE, Chart, ChartData, Role, Series, Snapshot, printable, unique_names

Encoder = Callable[[Collector], bytes]
Labels = tuple[tuple[str, str], ...]
_VERSION = version("ebpfmon")  # read now, because the daemon may become a user who cannot read it later
_BASE_UNITS = {
    "milliseconds": ("seconds", 1, 1000), "microseconds": ("seconds", 1, 10**6), "nanoseconds": ("seconds", 1, 10**9),
    "kB": ("bytes", 10**3, 1), "MB": ("bytes", 10**6, 1), "GB": ("bytes", 10**9, 1), "%": ("ratio", 1, 100),
}  # fmt: skip
"""The base unit of each unit, and the factor for values as a numerator and a denominator."""
_HAS_CHECKSUM = re.compile(r"~[0-9a-f]{16}$")


def choose_encoder(accept: str) -> tuple[Encoder, str]:
    """Return the encoder and the media type for a client with this Accept header."""
    try:
        return exposition.choose_encoder(accept)
    except TypeError:  # the client asked for a version that is not a number
        return exposition.choose_encoder("")


def render(snapshot: Snapshot | None, streams: int, cut: int, encode: Encoder) -> bytes:
    """Return all metrics, encoded. `streams` clients are streaming, and `cut` were disconnected as too slow."""
    registry = CollectorRegistry()
    registry.register(_Charts(snapshot, streams, cut))
    ProcessCollector(registry=registry)
    return encode(registry)


def name_of(chart: Chart) -> str:
    """Return the name of a chart's metric, without `_total`."""
    units = chart.buckets.units if chart.buckets else chart.units.removesuffix("/s")
    unit, _, _ = _base(units)
    name, unit = _word(chart.id.removeprefix("ebpf.").removeprefix("ebpfmon.")), _word(unit)
    singular = unit.removesuffix("s")
    if name != unit and name.endswith(f"_{singular}"):
        name = name.removesuffix(f"_{singular}")
    if unit and name != unit and not name.endswith(f"_{unit}"):
        name += f"_{unit}"
    return f"ebpfmon_{name}"


def type_of(chart: Chart) -> str:
    """Return the Prometheus type of a chart's metric: counter, gauge or histogram."""
    if chart.buckets:
        return "histogram"
    # a counter in Prometheus must not decrease, but a difference may
    grows = chart.kind.cumulative and not any(dimension.minus for dimension in chart.dimensions)
    return "counter" if grows else "gauge"


def in_base_units(amount: float, units: str) -> float:
    """Return an amount in its base unit, such as seconds, bytes or ratio."""
    _, times, by = _base(units.removesuffix("/s"))
    return amount * times / by if by > 1 else amount * times


class _Charts(Collector):
    """The metrics of one snapshot."""

    def __init__(self, snapshot: Snapshot | None, streams: int, cut: int) -> None:
        self._snapshot, self._streams, self._cut = snapshot, streams, cut

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the snapshot's charts, then those of the sink itself."""
        if self._snapshot:
            yield from _of_charts(self._snapshot)
            time_s, elapsed_s = round(self._snapshot.time_s, 3), round(self._snapshot.elapsed_s, 4)
            yield _gauge("ebpfmon_snapshot_time_seconds", "The end of the interval.", time_s, "seconds")
            yield _gauge("ebpfmon_snapshot_elapsed_seconds", "The length of the interval.", elapsed_s, "seconds")
            complete = int(self._snapshot.complete)
            yield _gauge("ebpfmon_snapshot_complete", "Whether all counts could be read.", complete)
        yield _gauge("ebpfmon_http_streams", "Clients that are streaming.", self._streams)
        cut = Metric("ebpfmon_http_streams_cut", "Clients that were cut off because they read too slowly.", "counter")
        cut.add_sample("ebpfmon_http_streams_cut_total", {}, self._cut)
        yield cut
        build = Metric("ebpfmon_build", "The version of ebpfmon.", "info")
        build.add_sample("ebpfmon_build_info", {"version": _VERSION}, 1)
        yield build


def _gauge(name: str, documentation: str, value: float, unit: str = "") -> Metric:
    metric = Metric(name, documentation, "gauge", unit)
    metric.add_sample(name, {}, value)
    return metric


def _of_charts(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield a metric for each name. Charts with the same name and type become one metric.

    A scrape would fail if it had two metrics of the same name.
    """
    by_name: dict[str, list[ChartData]] = {}
    for data in snapshot.charts:
        if data.chart.unbounded:
            continue
        charts = by_name.setdefault(name_of(data.chart), [])
        if not charts or type_of(charts[0].chart) == type_of(data.chart):
            charts.append(data)
    for name, charts in by_name.items():
        chart = charts[0].chart
        metric = Metric(name, printable(f"{chart.title} ({chart.id})."), type_of(chart), _unit(name))
        add = _add_histograms if chart.buckets else _add_values
        add(metric, charts)
        yield metric


def _add_values(metric: Metric, charts: list[ChartData]) -> None:
    values: dict[Labels, float] = {}
    for data in charts:
        chart, rest, columns = data.chart, _rest_labels(data), data.chart.columns
        names = unique_names([printable(c.name) for c in columns], [c.id for c in columns], [False] * len(columns))
        dimensions = [() if c.id == VALUE else (("dimension", name),) for c, name in zip(columns, names, strict=True)]
        for series in data.series():
            numbers, of_series = series.totals if chart.kind.cumulative else series.deltas, _labels(series, rest)
            for dimension, number in zip(dimensions, numbers, strict=True):
                labels = of_series + dimension
                values[labels] = values.get(labels, 0) + in_base_units(number, chart.units)
    sample = f"{metric.name}_total" if metric.type == "counter" else metric.name
    for labels, value in values.items():
        metric.add_sample(sample, dict(labels), value)


def _add_histograms(metric: Metric, charts: list[ChartData]) -> None:
    """Add the totals of histograms. In Prometheus, a bucket counts all values up to its bound."""
    buckets = charts[0].chart.buckets
    assert buckets
    in_base = (*(in_base_units(bound, buckets.units) for bound in buckets.bounds), math.inf)
    bounds = [floatToGoString(bound) for bound in in_base]  # type: ignore[no-untyped-call]  # it has no annotations
    by_labels: dict[Labels, tuple[list[int], int]] = {}
    for data in charts:
        if data.chart.buckets != buckets:
            continue
        rest = _rest_labels(data)
        for series in data.series():
            total, key = series.total_histogram, _labels(series, rest)
            counts, sum_ = by_labels.get(key, ([0] * len(bounds), 0))
            counts = [a + b for a, b in zip(counts, total.counts, strict=True)]
            by_labels[key] = counts, sum_ + (total.sum or 0)
    for key, (counts, sum_) in by_labels.items():
        labels = dict(key)
        for bound, count in zip(bounds, accumulate(counts), strict=True):
            metric.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, count)
        metric.add_sample(f"{metric.name}_count", labels, sum(counts))
        if buckets.sum:
            metric.add_sample(f"{metric.name}_sum", labels, in_base_units(sum_, buckets.sum_units))


def _rest_labels(data: ChartData) -> set[tuple[str, ...]]:
    """Return the label values of the series `other` and `overflow`."""
    return {labels for role, labels in data.index.keys if role is not Role.ITEM}


def _labels(series: Series, rest: Collection[tuple[str, ...]]) -> Labels:
    """Return labels that are unique within the chart.

    Metrics have no roles, and unprintable characters become `?`, so names that could be confused get a checksum. If
    series were merged, a counter could decrease.
    """
    is_like_rest = series.role is Role.ITEM and series.labels in rest
    return tuple((_word(label), _value(value, is_like_rest)) for label, value in series.label_map.items())


def _value(text: str, needs_checksum: bool) -> str:
    shown = printable(text)
    # Names that look as if they had a checksum get one as well, so that no program can pass for another.
    if needs_checksum or shown != text or _HAS_CHECKSUM.search(text):
        shown += f"~{blake2b(text.encode(errors='surrogatepass'), digest_size=8).hexdigest()}"
    return shown


def _base(units: str) -> tuple[str, int, int]:
    return _BASE_UNITS.get(units, (units, 1, 1))


def _word(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "_", text).strip("_")


def _unit(name: str) -> str:
    """Return a metric's unit in OpenMetrics. The metric's name must end with it."""
    return next((unit for unit in ("seconds", "bytes", "ratio") if name.endswith(f"_{unit}")), "")
