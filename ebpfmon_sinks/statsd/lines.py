"""Convert snapshots to StatsD lines, and pack them into datagrams. Pure.

The lines have no tags, or tags in one of three syntaxes. They are written and packed by the client and the pipeline of
the PyPI package `statsd`. A negative gauge follows a 0 in the same datagram, because a sign means a relative value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import count

import numpy as np
from numpy.typing import NDArray
from statsd.client.base import StatsClientBase
from statsd.client.udp import Pipeline

from ebpfmon import VALUE, Chart, ChartData, Dimension, Role, Snapshot
from ebpfmon_sinks.series_names import series_id, series_name
from ebpfmon_sinks.statsd.settings import StatsdSettings, Tags

# The greatest lengths of the parts of a name. The two lines of a negative gauge (each has up to 236 characters and then
# `:-1.7976931348623157e+308|g`) fit into the smallest datagram that may be set, with up to five labels.
_MAX_CHART, _MAX_SERIES, _MAX_COLUMN, _MAX_LABELS, _MAX_LABEL_NAME = 60, 90, 20, 104, 20
_HASH_LENGTH = 9  # with the `_` before it
_CACHED_NAMES = 1 << 15  # a snapshot with 500 destinations and 200 applications has a third as many


class Names:
    """Gives each number of each chart a unique name, which is the part of its line between the prefix and the value.

    Names consist of [a-z0-9_.-] and the delimiters of the syntax. No syntax has an escape, so all other characters
    become `_`. A name that is too long, or already used for another number, ends in a hash of the label values.

    They are made from the names of dimensions and label values, not from their ids, because `io.read` is easier to
    understand than `io.vfs_read`, and because resolved host names should be visible.
    """

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._known: dict[tuple[object, ...], str] = {}
        self._used: set[str] = set()

    def trim(self) -> None:
        """Clear the cache if it is too large. Call this between snapshots, because names within one must differ."""
        if len(self._known) > _CACHED_NAMES:
            self._known.clear()
            self._used.clear()

    def of(self, data: ChartData, series: int, column: Dimension) -> str:
        """Return the name of one number of a series. `series` is the index of the series."""
        index = data.index
        role, labels, names = index.roles[series], index.labels[series], index.names[series]
        key = data.chart.id, role, labels, names, column.id, column.name
        name = self._known.get(key)
        if name is None:
            name = self._known[key] = self._new(data.chart, labels, names, column)
            self._used.add(name)
        return name

    def _new(self, chart: Chart, labels: Sequence[str], names: Sequence[str], column: Dimension) -> str:
        id_ = series_id(chart, labels) if chart.labels else column.id
        for n in count():
            salt = f"{n} {id_}" if n else ""
            if self._tags == "none":
                name = _path(chart, series_name(chart, labels, names), column, salt)
            else:
                name = _tagged(chart, names, column, salt, self._tags)
            if name not in self._used:
                return name
        raise AssertionError


def _path(chart: Chart, series: str, column: Dimension, salt: str) -> str:
    """Return a name without tags, which is a path of chart, series and dimension."""
    parts = []
    if column.id != VALUE:
        parts.append(_part(column.name, _MAX_COLUMN if chart.labels else _MAX_SERIES, "" if chart.labels else salt))
    if chart.labels:
        parts.insert(0, _part(series, _MAX_SERIES, salt))
    return ".".join([_metric(chart, "" if parts else salt), *(part.replace(".", "_") for part in parts)])


def _tagged(chart: Chart, names: Sequence[str], column: Dimension, salt: str, tags: Tags) -> str:
    """Return a name with a tag for each label and one for the dimension."""
    pairs = _labels(chart.labels, names, salt)
    if column.id != VALUE:
        max_length = _MAX_COLUMN if pairs else _MAX_SERIES
        pairs.append(("dimension", _part(column.name, max_length, "" if pairs else salt)))
    metric = _metric(chart, "" if pairs else salt)
    match tags:
        case "datadog":
            return _dogstatsd(metric) + ("|#" if pairs else "") + ",".join(f"{key}:{value}" for key, value in pairs)
        case "influx":
            return metric + "".join(f",{key}={value}" for key, value in pairs)
        case _:
            return metric + "".join(f";{key}={value}" for key, value in pairs)


def _labels(labels: Sequence[str], names: Sequence[str], salt: str) -> list[tuple[str, str]]:
    """Return the labels that have a value. If they are too long together, the longest values are cut.

    The salt is added to the last label, which is the most specific one.
    """
    pairs = [(label, name) for label, name in zip(labels, names, strict=True) if name]
    pairs = pairs or list(zip(labels, names, strict=True))
    if not pairs:
        return []
    of_key = max(min(_MAX_LABEL_NAME, _MAX_LABELS // len(pairs) - 2 - _HASH_LENGTH), _HASH_LENGTH)
    keys = [_part(label, of_key) for label, _ in pairs]
    salts = [*[""] * (len(pairs) - 1), salt]
    room, max_length = _MAX_LABELS - sum(len(key) + 2 for key in keys), _MAX_SERIES
    lengths = [len(_part(name, max_length, salt)) for (_, name), salt in zip(pairs, salts, strict=True)]
    while sum(min(length, max_length) for length in lengths) > room and max_length > _HASH_LENGTH:
        max_length -= 1
    return [(key, _part(name, max_length, salt)) for key, (_, name), salt in zip(keys, pairs, salts, strict=True)]


def _metric(chart: Chart, salt: str) -> str:
    """Return the metric name of a chart, without empty path components."""
    return ".".join(filter(None, _part(chart.id, _MAX_CHART, salt).split("."))) or "_"


def _dogstatsd(name: str) -> str:
    """Return a metric name that Datadog accepts, without `-`."""
    return name.replace("-", "_")


def _part(text: str, max_length: int, salt: str = "") -> str:
    """Return a text as a valid part of a name, with 1 to `max_length` characters, and different for each salt."""
    clean = re.sub(r"[^a-z0-9_.-]", "_", text.lower()) or "_"
    if len(clean) <= max_length and not salt:
        return clean
    mark = blake2b((salt or text).encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{clean[: max_length - _HASH_LENGTH]}_{mark}"


def to_datagrams(snapshot: Snapshot, names: Names, settings: StatsdSettings) -> list[bytes]:
    """Return a snapshot as datagrams.

    A counter whose delta is 0 is not sent. Servers then continue with 0 or forget the counter, depending on their
    configuration (etsy's `deleteCounters`). A negative delta is sent, because the servers of etsy, Datadog and Netdata
    subtract it. A gauge is sent in every snapshot that has it, because servers keep the last value.
    """
    names.trim()
    packer = _Packer(settings)
    with packer.pipeline() as lines:
        for data in snapshot.charts:
            columns = data.chart.columns
            _name_other_first(data, columns, names)
            sent = _is_sent(data)
            write = lines.incr if data.chart.kind.cumulative else lines.gauge
            for (series, column), number in zip(np.argwhere(sent).tolist(), data.deltas[sent].tolist(), strict=True):
                # Adding 0 turns -0.0 into 0.0, because the sign would mean a relative value.
                write(names.of(data, series, columns[column]), number + 0)
    return packer.datagrams


def without_lines(snapshot: Snapshot, lines: int) -> Snapshot:
    """Return the snapshot without the counts of the first lines of its datagrams.

    Gauges stay, because a server may get the same value again.
    """
    charts = []
    for data in snapshot.charts:
        positions = np.argwhere(_is_sent(data))
        if data.chart.kind.cumulative:
            series, columns = positions[:lines].T
            deltas = data.deltas.copy()
            deltas[series, columns] = 0
            charts.append(replace(data, deltas=deltas))
            lines -= len(series)
        else:
            charts.append(data)
            lines -= len(positions) + int(np.count_nonzero(data.deltas[_is_sent(data)] < 0))
        lines = max(lines, 0)
    return replace(snapshot, charts=tuple(charts))


def _is_sent(data: ChartData) -> NDArray[np.bool_]:
    """Return which numbers have a line, (series, columns). StatsD can represent only finite ones."""
    finite: NDArray[np.bool_] = np.isfinite(data.deltas)
    return finite & (data.deltas != 0) if data.chart.kind.cumulative else finite


def _name_other_first(data: ChartData, columns: Sequence[Dimension], names: Names) -> None:
    """Give `other` and `overflow` their plain names before an item with the same name can get them."""
    for series in range(len(data) - 1, -1, -1):  # they come last
        if data.index.roles[series] is Role.ITEM:
            return
        for column in columns:
            names.of(data, series, column)


class _Packer(StatsClientBase):  # type: ignore[misc]  # the package has no types
    """A client of the package `statsd` that keeps the datagrams instead of sending them."""

    def __init__(self, settings: StatsdSettings) -> None:
        self._prefix = _dogstatsd(settings.prefix) if settings.tags == "datadog" else settings.prefix
        self._maxudpsize = settings.maximum_datagram + 1  # the package fills datagrams up to one byte less
        self.datagrams: list[bytes] = []

    def pipeline(self) -> Pipeline:
        return _Lines(self)

    def _send(self, data: str) -> None:
        self.datagrams.append(data.encode("ascii"))


class _Lines(Pipeline):  # type: ignore[misc]  # the package has no types
    """Puts Datadog's tags after the value, because the package does not know tags."""

    def _prepare(self, stat: str, value: str, rate: float) -> str:
        name, mark, tags = stat.partition("|#")
        return f"{super()._prepare(name, value, rate)}{mark}{tags}"
