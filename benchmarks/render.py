"""Tables as text, for the terminal and for Markdown. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.result import Bar, Cell, Result, Table
from benchmarks.statistics import spread


def text(result: Result) -> str:
    """Return what a benchmark prints."""
    lines = [f"{result.name}: {result.title}", ""]
    for table in result.tables:
        lines += [table.title, *_aligned(table), *([table.note] if table.note else []), ""]
    lines += [f"{bar.what}: {_value(bar)}{_noise(bar)} (bar {_bar(bar)}) {bar.verdict}" for bar in result.bars]
    lines += [f"skipped: {what}: {why}" for what, why in result.skipped.items()]
    return "\n".join([*lines, f"took {result.took_s:.0f} s", ""])


def markdown(table: Table) -> list[str]:
    """A table in Markdown."""
    return [
        _row(table.columns),
        "|" + "|".join(" --- " if n == 0 else " ---: " for n in range(len(table.columns))) + "|",
        *(_row(shown(cell) for cell in row) for row in table.rows),
    ]


def bars(results: list[Result]) -> list[str]:
    """Return the numbers to hold of all benchmarks, in Markdown."""
    rows: list[tuple[Cell, ...]] = [
        (bar.what, _value(bar), bar.in_rounds, _bar(bar), bar.verdict, f"`{result.name}`")
        for result in results
        for bar in result.bars
    ]
    return markdown(Table("", ("what", "measured", "in rounds", "bar", "verdict", "measured by"), rows))


def shown(cell: Cell) -> str:
    """A cell as people read it."""
    match cell:
        case None:
            return ""
        case int():
            return f"{cell:,}"
        case float():
            return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
        case str():
            return cell


def ratio(value: float) -> str:
    """A ratio as people say it."""
    return f"1/{1 / value:.3g}" if 0 < value <= 0.5 else f"{value:.3g} x"


def between(values: Sequence[float], show: Callable[[float], str] = "{:.3g}".format) -> str:
    """From the lowest to the highest; empty if there is but one."""
    return f"{show(min(values))} to {show(max(values))}" if len(values) > 1 else ""


def middle(values: Sequence[float]) -> str:
    """The median, and half the distance between the quartiles."""
    found = spread(values)
    return f"{found.median:.3g} ± {found.spread:.2g}"


def _value(bar: Bar) -> str:
    return "-" if bar.value is None else _of(bar, float(bar.value))


def _noise(bar: Bar) -> str:
    return f", in rounds {bar.in_rounds}" if bar.in_rounds else ""


def _bar(bar: Bar) -> str:
    return _of(bar, float(bar.bar))


def _of(bar: Bar, value: float) -> str:
    return f"{shown(value)} {bar.unit}" if bar.unit else ratio(value)


def _row(cells: object) -> str:
    assert hasattr(cells, "__iter__")
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _aligned(table: Table) -> list[str]:
    rows = [list(table.columns), *([shown(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(table.columns))]
    return [
        "  ".join(row[n].rjust(width) if n else row[n].ljust(width) for n, width in enumerate(widths)) for row in rows
    ]
