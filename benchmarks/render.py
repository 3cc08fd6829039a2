"""Tables as text, for the terminal and for Markdown. Pure."""

from __future__ import annotations

from benchmarks.result import Bar, Cell, Result, Table


def text(result: Result) -> str:
    """What a piece prints."""
    lines = [f"{result.name}: {result.title}", ""]
    for table in result.tables:
        lines += [table.title, *_aligned(table), *([table.note] if table.note else []), ""]
    lines += [f"{bar.what}: {_value(bar)} (bar {_bar(bar)}) {bar.verdict}" for bar in result.bars]
    lines += [f"skipped: {what}: {why}" for what, why in result.skipped.items()]
    return "\n".join([*lines, f"took {result.took_s:.0f} s", ""])


def markdown(table: Table) -> list[str]:
    """A table in Markdown."""
    return [
        _row(table.columns),
        "|" + "|".join(" --- " if n == 0 else " ---: " for n in range(len(table.columns))) + "|",
        *(_row(shown(cell) for cell in row) for row in table.rows),
    ]


def bars(found: list[Bar]) -> list[str]:
    """The numbers to hold, in Markdown."""
    rows: list[tuple[Cell, ...]] = [(bar.what, _value(bar), _bar(bar), bar.verdict) for bar in found]
    return markdown(Table("", ("what", "measured", "bar", ""), rows))


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


def _value(bar: Bar) -> str:
    return "-" if bar.value is None else f"{shown(float(bar.value))} {bar.unit}".strip()


def _bar(bar: Bar) -> str:
    return f"{shown(float(bar.bar))} {bar.unit}".strip()


def _row(cells: object) -> str:
    assert hasattr(cells, "__iter__")
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _aligned(table: Table) -> list[str]:
    rows = [list(table.columns), *([shown(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(table.columns))]
    return [
        "  ".join(row[n].rjust(width) if n else row[n].ljust(width) for n, width in enumerate(widths)) for row in rows
    ]
