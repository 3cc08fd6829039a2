"""From snapshots to StatsD's lines and datagrams, without tags or with tags in one of three syntaxes. Pure.

The PyPI package `statsd` forms the lines with its clients' `incr` and `gauge` (a negative gauge behind a 0 in the same
datagram, because a sign means "relative"), and packs them with its pipeline.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import count

import numpy as np
from statsd.client.base import StatsClientBase
from statsd.client.udp import Pipeline

from ebpfmon import VALUE, Chart, ChartData, Dimension, Role, Snapshot
from ebpfmon_sinks.joined import joined, joined_name
from ebpfmon_sinks.statsd.settings import StatsdSettings, Tags

# Characters of the parts of a name. A gauge's two lines (236 each with prefix, chart, labels and dimension, then
# `:-1.7976931348623157e+308|g`) fit the smallest datagram that may be set, with up to five labels.
_CHART_MOST, _SERIES_MOST, _COLUMN_MOST, _LABELS_MOST, _LABEL_NAME_MOST = 60, 90, 20, 104, 20
_HASH = 9  # with a `_` in front
_NAMES = 1 << 15  # names that are remembered: a snapshot with 500 destinations and 200 applications has a third of them


class Names:
    """Name the numbers of charts, in one syntax: everything of a line but the prefix and the value.

    Names are in [a-z0-9_.-], apart from the marks of the syntax. No syntax has an escape, so every other character
    becomes `_`. No two numbers have one name: if another one had it first, it ends in a hash of the label values, as it
    does if it had to be cut.

    What people read is used, not the ids: `io.read` tells more than `io.vfs_read`, and who has hosts resolved wants to
    see their names.
    """

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._known: dict[tuple[object, ...], str] = {}
        self._taken: set[str] = set()

    def trim(self) -> None:
        """Forget all names if there are too many. Not within a snapshot, whose names must differ."""
        if len(self._known) > _NAMES:
            self._known.clear()
            self._taken.clear()

    def of(self, data: ChartData, series: int, column: Dimension) -> str:
        """Return the name of one number of the series at this place."""
        index = data.index
        role, labels, names = index.roles[series], index.labels[series], index.names[series]
        key = data.chart.id, role, labels, names, column.id, column.name
        name = self._known.get(key)
        if name is None:
            name = self._known[key] = self._new(data.chart, labels, names, column)
            self._taken.add(name)
        return name

    def _new(self, chart: Chart, labels: Sequence[str], names: Sequence[str], column: Dimension) -> str:
        id_ = joined(chart, labels) if chart.labels else column.id
        for n in count():
            salt = f"{n} {id_}" if n else ""
            if self._tags == "none":
                name = _path(chart, joined_name(chart, labels, names), column, salt)
            else:
                name = _tagged(chart, names, column, salt, self._tags)
            if name not in self._taken:
                return name
        raise AssertionError


def _path(chart: Chart, series: str, column: Dimension, salt: str) -> str:
    """Return a name without tags: chart, series and dimension are the components of a path."""
    parts = []
    if column.id != VALUE:
        parts.append(_part(column.name, _COLUMN_MOST if chart.labels else _SERIES_MOST, "" if chart.labels else salt))
    if chart.labels:
        parts.insert(0, _part(series, _SERIES_MOST, salt))
    return ".".join([_metric(chart, "" if parts else salt), *(part.replace(".", "_") for part in parts)])


def _tagged(chart: Chart, names: Sequence[str], column: Dimension, salt: str, tags: Tags) -> str:
    """Return a name with tags: a tag for each label, and one for the dimension."""
    pairs = _labels(chart.labels, names, salt)
    if column.id != VALUE:
        most = _COLUMN_MOST if pairs else _SERIES_MOST
        pairs.append(("dimension", _part(column.name, most, "" if pairs else salt)))
    metric = _metric(chart, "" if pairs else salt)
    match tags:
        case "datadog":
            return _dogstatsd(metric) + ("|#" if pairs else "") + ",".join(f"{key}:{value}" for key, value in pairs)
        case "influx":
            return metric + "".join(f",{key}={value}" for key, value in pairs)
        case _:
            return metric + "".join(f";{key}={value}" for key, value in pairs)


def _labels(labels: Sequence[str], names: Sequence[str], salt: str) -> list[tuple[str, str]]:
    """Return the labels that have a value, the longest values cut if there is no room for all. The last one, which says
    most, has the salt."""
    pairs = [(label, name) for label, name in zip(labels, names, strict=True) if name]
    pairs = pairs or list(zip(labels, names, strict=True))
    if not pairs:
        return []
    of_key = max(min(_LABEL_NAME_MOST, _LABELS_MOST // len(pairs) - 2 - _HASH), _HASH)
    keys = [_part(label, of_key) for label, _ in pairs]
    salts = [*[""] * (len(pairs) - 1), salt]
    room, most = _LABELS_MOST - sum(len(key) + 2 for key in keys), _SERIES_MOST
    lengths = [len(_part(name, most, salt)) for (_, name), salt in zip(pairs, salts, strict=True)]
    while sum(min(length, most) for length in lengths) > room and most > _HASH:
        most -= 1
    return [(key, _part(name, most, salt)) for key, (_, name), salt in zip(keys, pairs, salts, strict=True)]


def _metric(chart: Chart, salt: str) -> str:
    """Return the name of a chart, which has no empty components."""
    return ".".join(filter(None, _part(chart.id, _CHART_MOST, salt).split("."))) or "_"


def _dogstatsd(name: str) -> str:
    """Return the name of a metric as Datadog can have it: without `-`."""
    return name.replace("-", "_")


def _part(text: str, most: int, salt: str = "") -> str:
    """Return a part of a name: clean, not empty, not too long, and another one for each salt."""
    clean = re.sub(r"[^a-z0-9_.-]", "_", text.lower()) or "_"
    if len(clean) <= most and not salt:
        return clean
    from hashlib import blake2b  # takes 0.6 MB, and few names are that long or equal

    mark = blake2b((salt or text).encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{clean[: most - _HASH]}_{mark}"


def form(snapshot: Snapshot, names: Names, settings: StatsdSettings) -> list[bytes]:
    """Return a snapshot as datagrams.

    A counter's delta of 0 is not sent: who uses StatsD expects a counter to speak when something has happened, and
    every server goes on with a 0 by itself, or forgets the counter, as it was set up to (etsy's `deleteCounters`). A
    negative one is sent (etsy's, Datadog's and Netdata's servers subtract it). A gauge is sent as long as it exists:
    servers keep its last value.
    """
    names.trim()
    packer = _Packer(settings)
    with packer.pipeline() as lines:
        for data in snapshot.charts:
            columns = data.chart.columns
            _name_the_rest(data, columns, names)
            sent = data.deltas != 0 if data.chart.kind.cumulative else np.isfinite(data.deltas)
            write = lines.incr if data.chart.kind.cumulative else lines.gauge
            for (series, column), number in zip(np.argwhere(sent).tolist(), data.deltas[sent].tolist(), strict=True):
                if math.isfinite(number):  # there is no way to write anything else
                    write(names.of(data, series, columns[column]), number + 0)  # -0.0 would be "0 less than before"
    return packer.datagrams


def _name_the_rest(data: ChartData, columns: Sequence[Dimension], names: Names) -> None:
    """Give the rest of a whole its plain name before any item that is called the same."""
    for series in range(len(data) - 1, -1, -1):  # the rest comes last
        if data.index.roles[series] is Role.ITEM:
            return
        for column in columns:
            names.of(data, series, column)


class _Packer(StatsClientBase):  # type: ignore[misc]  # the package has no types
    """A client of the package's, which only keeps what the package would send."""

    def __init__(self, settings: StatsdSettings) -> None:
        self._prefix = _dogstatsd(settings.prefix) if settings.tags == "datadog" else settings.prefix
        self._maxudpsize = settings.maximum_datagram + 1  # the package fills datagrams up to one less
        self.datagrams: list[bytes] = []

    def pipeline(self) -> Pipeline:
        return _Lines(self)

    def _send(self, data: str) -> None:
        self.datagrams.append(data.encode("ascii"))


class _Lines(Pipeline):  # type: ignore[misc]  # likewise
    """Puts Datadog's tags where they belong, behind the value: the package knows of no tags."""

    def _prepare(self, stat: str, value: str, rate: float) -> str:
        name, mark, tags = stat.partition("|#")
        return f"{super()._prepare(name, value, rate)}{mark}{tags}"
