"""A parser of Netdata's protocol that is stricter than Netdata itself."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

SEPARATORS = " \t\r\f\v="


def lex(line: str) -> list[str]:
    """Split a line into words like Netdata: quotes group words, and a backslash escapes the next character."""
    words, at = [], 0
    while at < len(line):
        if line[at] in SEPARATORS:
            at += 1
            continue
        quote = line[at] if line[at] in "'\"" else ""
        at += len(quote)
        start = at
        while at < len(line) and (line[at] != quote if quote else line[at] not in SEPARATORS):
            at += 2 if line[at] == "\\" and at + 1 < len(line) else 1
        words.append(line[start:at])
        at += len(quote)
    return words


@dataclass
class Dim:
    name: str
    algorithm: str
    multiplier: int
    divisor: int
    collected: list[int] = field(default_factory=list)


@dataclass
class NetdataChart:
    """A chart in Netdata: its declaration, its dimensions and its BEGINs."""

    declared: list[str]
    dims: dict[str, Dim] = field(default_factory=dict)
    begins: list[int | None] = field(default_factory=list)
    declarations: int = 0

    def shows(self, dimension: str) -> list[int]:
        """Return what Netdata shows for each update after the first, in the chart's units."""
        dim = self.dims[dimension]
        of = dim.collected
        raw = [b - a for a, b in itertools.pairwise(of)] if dim.algorithm == "incremental" else of[1:]
        return [r * dim.multiplier // dim.divisor for r in raw]


class Netdata:
    """A reader of the protocol. It fails on every line for which Netdata might stop a plugin."""

    def __init__(self) -> None:
        self.charts: dict[str, NetdataChart] = {}

    def read(self, data: bytes) -> None:
        text = data.decode()
        assert not text or text.endswith("\n")
        selected: NetdataChart | None = None
        begun: NetdataChart | None = None
        for line in text.split("\n")[:-1]:
            assert len(line.encode()) < 1024
            words = lex(line)
            assert len(words) <= 30
            match words:
                case ["CHART", id_, _, title, units, family, context, kind, priority, every, options, plugin, module]:
                    assert begun is None
                    declared = [title, units, family, context, kind, priority, every, plugin, module]
                    if options == "obsolete":
                        del self.charts[id_]
                        continue
                    selected = self.charts.setdefault(id_, NetdataChart(declared))
                    selected.declared, selected.declarations = declared, selected.declarations + 1
                case ["DIMENSION", id_, name, algorithm, multiplier, divisor, options]:
                    assert selected is not None
                    if options == "obsolete":
                        del selected.dims[id_]
                        continue
                    dim = selected.dims.setdefault(id_, Dim(name, algorithm, int(multiplier), int(divisor)))
                    assert (dim.algorithm, dim.multiplier, dim.divisor) == (algorithm, int(multiplier), int(divisor))
                    dim.name = name
                case ["BEGIN", id_, *usec]:
                    assert begun is None
                    begun = self.charts[id_]
                    begun.begins.append(int(usec[0]) if usec else None)
                    left = {*begun.dims}
                case ["SET", id_, value]:
                    assert begun is not None
                    assert -(1 << 63) <= int(value) < 1 << 63
                    left.remove(id_)
                    begun.dims[id_].collected.append(int(value))
                case ["END"]:
                    assert begun is not None
                    begun = None
                case _:
                    raise AssertionError(line)
        assert begun is None
        for shown in self.charts.values():
            assert shown.dims or shown.begins, "a chart has no dimension"
