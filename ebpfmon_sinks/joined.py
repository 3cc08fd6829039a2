"""Join the label values of a series into one id, for protocols that have no labels. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ebpfmon import VALUE, Chart, Dimension

_COLON = ":"


def joined(chart: Chart, values: Sequence[str]) -> str:
    """Return label values as one text: `443:TCP:192.0.2.1`, `53:UDP:[2001:db8::1]`.

    As in URLs, a value that has colons itself (an address of IPv6) is put in brackets where colons separate.
    """
    return joined_name(chart, values, values)


def joined_name(chart: Chart, values: Sequence[str], names: Sequence[str]) -> str:
    """Return the label values of a series as people read them as one text: `https:TCP:example.org`.

    A name that differs from its value stays as it is: somebody chose it, and nobody takes it apart. Empty values are
    left out.
    """
    if len(values) > 1 and chart.separator == _COLON:
        names = [
            f"[{name}]" if _COLON in name and name == value else name for value, name in zip(values, names, strict=True)
        ]
    return chart.separator.join(filter(None, names))


def of_column(chart: Chart, series: str, column: Dimension, text: str) -> str:
    """Return what one number of a series is called. `series` is the joined id or name of the series, `text` the id or
    the name of the column. The only number of a labelled series needs no name of its own."""
    if not chart.labels:
        return text
    return series if column.id == VALUE else f"{series}_{text}"
