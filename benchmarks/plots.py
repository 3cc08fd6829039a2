"""Draw plots as SVG, with the same bytes for the same numbers. Needs matplotlib (pip install 'ebpfmon[bench]')."""

from __future__ import annotations

from io import BytesIO
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.result import Plot

_COLOURS = (
    "#1f6f8b", "#e07a2f", "#5b8c3e", "#8a4f9e", "#c0392b", "#7f8c8d", "#d4a017", "#2c3e50", "#d98cb3", "#17a589",
)  # fmt: skip
_STYLE: Any = {
    "svg.hashsalt": "ebpfmon",  # Without a fixed salt, ids are random.
    "svg.fonttype": "none",  # Keep text as text, which is small and can be searched.
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
}


def svg(plot: Plot) -> bytes:
    """Return a plot as an SVG document."""
    return draw(plot, "svg", metadata={"Date": None, "Creator": None})


def draw(plot: Plot, image_format: str, **options: Any) -> bytes:
    """Return a plot in one of matplotlib's image formats."""
    with mpl.rc_context(_STYLE):
        bars = sum(map(len, plot.series.values())) if plot.kind == "bars" else 0
        figure = Figure(figsize=(7.2, max(3.6, 1.5 + 0.14 * bars)), layout="constrained")
        axes = figure.add_subplot()
        if plot.kind == "bars":
            _bars(axes, plot)
        else:
            _lines(axes, plot)
        axes.set_title(plot.title, loc="left", fontweight="bold")
        if len(plot.series) > 1:
            figure.legend(loc="outside lower left", ncols=3, frameon=False)
        out = BytesIO()
        figure.savefig(out, format=image_format, **options)
    return out.getvalue()


def _lines(axes: Axes, plot: Plot) -> None:
    for (name, points), colour in zip(plot.series.items(), cycle(_COLOURS), strict=False):
        xs, ys = [float(x) for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, marker="o", markersize=4, label=name, color=colour)
    if "x" in plot.log:
        axes.set_xscale("log")
        axes.set_xticks(sorted({float(x) for points in plot.series.values() for x, _ in points}), minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
    if "y" in plot.log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_format_tick))
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)


def _bars(axes: Axes, plot: Plot) -> None:
    """Draw horizontal bars, which leave room for long names, from top to bottom, with their numbers beside them."""
    names = list(dict.fromkeys(str(x) for points in plot.series.values() for x, _ in points))
    height = 0.8 / max(len(plot.series), 1)
    for n, ((label, points), colour) in enumerate(zip(plot.series.items(), cycle(_COLOURS), strict=False)):
        places = np.array([names.index(str(x)) for x, _ in points], float) + n * height - 0.4 + height / 2
        bars = axes.barh(places, [y for _, y in points], height, label=label, color=colour, ecolor="#555555",
                         xerr=plot.spread.get(label), error_kw={"linewidth": 0.7})  # fmt: skip
        axes.bar_label(bars, [f"{y:,.3g}" if y < 1000 else f"{y:,.0f}" for _, y in points], padding=3, fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    if "y" in plot.log:
        axes.set_xscale("log")
    else:
        axes.axvline(0, color="black", linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(_format_tick))
    axes.set_xlabel(plot.y)


def _format_tick(value: float, _: int | None = None) -> str:
    return f"{value:,g}"
