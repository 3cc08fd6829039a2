"""The columns of the table: who each line is about, and the rates that probes declare. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ebpfmon import model

Mode = Literal["processes", "groups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the table.

    A rate has `units` and is `width` characters wide; `name` stands before it in running text. Other columns say who
    a line is about: those that are names are `width` to `widest` characters wide, at the left, and sort from a to z
    at first. `letter` is the key that sorts by the column. Where room is short, columns of the greatest `rank` go
    first. A `summary` column is shown in the totals only.
    """

    key: str
    header: str
    letter: str
    width: int
    rank: int
    widest: int = 0
    units: str = ""
    name: str = ""
    summary: bool = False

    @property
    def is_rate(self) -> bool:
        """Whether it shows an amount per second."""
        return bool(self.units)

    @property
    def is_name(self) -> bool:
        """Whether it shows words."""
        return self.widest > 0

    @property
    def is_bytes(self) -> bool:
        """Whether it is a rate in bytes, of which three digits are enough."""
        return self.units.startswith("bytes")

    @property
    def words(self) -> tuple[str, str]:
        """The units and the word before the number, as running text has them: ("calls/s", "read").

        If the word is the beginning of the units, it is said once: "err" in "errors/s" makes ("err/s", "").
        """
        word = self.name or self.header.lower()
        if not self.units.startswith(word):
            return self.units, word
        return word + self.units.removeprefix(self.units.partition("/")[0]), ""


PID = Column(key="pid", header="PID", letter="P", width=7, rank=0)
USER = Column(key="user", header="USER", letter="U", width=8, rank=14, widest=16)
COMMAND = Column(key="command", header="COMMAND", letter="N", width=12, rank=1, widest=16)
COUNT = Column(key="count", header="PROCS", letter="P", width=5, rank=1)
WHO: dict[Mode, tuple[Column, ...]] = {
    "processes": (PID, USER, Column(key="group", header="GROUP", letter="G", width=10, rank=9, widest=24), COMMAND),
    "groups": (Column(key="group", header="GROUP", letter="G", width=12, rank=0, widest=48), COUNT),
}
"""The columns that say who a line is about, by mode, in their order on the screen."""
RESERVED = frozenset({"", *(c.letter for columns in WHO.values() for c in columns)})
"""Letters that no rate can have."""


def rates(declared: Iterable[model.Column]) -> tuple[Column, ...]:
    """Return the rates that probes declare, each id once, in the order of the declarations.

    A letter that an earlier column has sorts by that column only.
    """
    found: dict[str, Column] = {}
    letters = set(RESERVED)
    for column in declared:
        if column.id in found:
            continue
        letter = "" if column.letter in letters else column.letter
        letters.add(letter)
        found[column.id] = Column(
            key=column.id, header=column.header, letter=letter, width=max(column.width, len(column.header), 4),
            rank=column.rank, units=column.units, name=column.name, summary=column.summary,
        )  # fmt: skip
    return tuple(found.values())


def sort_keys(declared: Iterable[model.Column]) -> list[str]:
    """Return the keys of all columns that a table can be sorted by."""
    who = (column for columns in WHO.values() for column in columns)
    return list(dict.fromkeys(c.key for c in (*who, *rates(declared)) if not c.summary))
