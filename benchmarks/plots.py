"""Plots as SVG, the same bytes for the same numbers. Needs matplotlib (pip install 'ebpfmon[bench]')."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.result import Plot

_COLOURS = ("#1f6f8b", "#e07a2f", "#5b8c3e", "#8a4f9e", "#c0392b", "#7f8c8d", "#d4a017")
_STYLE: Any = {
    "svg.hashsalt": "ebpfmon",  # or ids are random
    "svg.fonttype": "none",  # text stays text: small, and can be searched
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
}


def svg(plot: Plot) -> bytes:
    """The plot as an SVG document."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        if plot.kind == "bars":
            _bars(axes, plot)
        else:
            _lines(axes, plot)
        axes.set_title(plot.title, loc="left", fontweight="bold")
        if len(plot.series) > 1:
            axes.legend(frameon=False)
        out = BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _lines(axes: Axes, plot: Plot) -> None:
    for (name, points), colour in zip(plot.series.items(), _COLOURS, strict=False):
        xs, ys = [float(x) for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, marker="o", markersize=4, label=name, color=colour)
    if "x" in plot.log:
        axes.set_xscale("log")
    if "y" in plot.log:
        axes.set_yscale("log")
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)


def _bars(axes: Axes, plot: Plot) -> None:
    """Names on the left, as they are long; the first on top."""
    names = list(dict.fromkeys(str(x) for points in plot.series.values() for x, _ in points))
    height = 0.8 / max(len(plot.series), 1)
    for n, ((label, points), colour) in enumerate(zip(plot.series.items(), _COLOURS, strict=False)):
        places = np.array([names.index(str(x)) for x, _ in points], float)
        axes.barh(places + n * height - 0.4 + height / 2, [y for _, y in points], height, label=label, color=colour)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    if "y" in plot.log:
        axes.set_xscale("log")
    axes.set_xlabel(plot.y)
