"""Join the label values of a series into one id or name, for protocols that have no labels. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ebpfmon import VALUE, Chart, ChartData, Dimension, Role, unique_names

_COLON = ":"


def series_id(chart: Chart, values: Sequence[str]) -> str:
    """Return the label values of a series as one text, such as `443:TCP:192.0.2.1` or `53:UDP:[2001:db8::1]`.

    If the separator is a colon, a value that contains colons (an IPv6 address) is put in brackets, as in URLs.
    """
    return series_name(chart, values, values)


def series_name(chart: Chart, values: Sequence[str], names: Sequence[str]) -> str:
    """Return the names of a series' label values as one text, such as `https:TCP:example.org`.

    Empty names are left out. Only names that are equal to their values are put in brackets.
    """
    if len(values) > 1 and chart.separator == _COLON:
        names = [
            f"[{name}]" if _COLON in name and name == value else name for value, name in zip(values, names, strict=True)
        ]
    return chart.separator.join(filter(None, names))


def unique_series_names(data: ChartData, clean: Callable[[str], str] = str) -> list[str]:
    """Return the name of each series after `clean`, without equal names (see `unique_names`).

    `other` and `overflow` keep their names. An item that is called like them, or like another item, does not.
    """
    chart, index = data.chart, data.index
    names = [clean(series_name(chart, labels, names)) for labels, names in zip(index.labels, index.names, strict=True)]
    ids = [clean(series_id(chart, labels)) for labels in index.labels]
    return unique_names(names, ids, is_reserved(data))


def is_reserved(data: ChartData) -> list[bool]:
    """Return for each series whether its name is reserved, because its role is `other` or `overflow`."""
    return [role is not Role.ITEM for role in data.index.roles]


def column_name(chart: Chart, series: str, column: Dimension, text: str) -> str:
    """Return the id or name of one number of a series.

    `series` is the id or name of the series, and `text` the id or name of the column. In a chart with labels, the
    only column of a series has the name of the series.
    """
    if not chart.labels:
        return text
    return series if column.id == VALUE else f"{series}_{text}"
