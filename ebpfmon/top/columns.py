"""The columns of the table: those that identify a line, and the rates that probes declare. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ebpfmon import model

Mode = Literal["processes", "groups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the table: a rate, or a column that identifies a line.

    A rate has `units` and is `width` characters wide; `name` is the word before its number in the totals. A column of
    names is `width` to `widest` characters wide, left-aligned, and at first sorted from a to z. Pressing `letter` sorts
    by the column. If there is not enough room, the columns with the highest `rank` are left out first. A `summary`
    column is shown only in the totals.
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
        """Whether it shows names."""
        return self.widest > 0

    @property
    def is_bytes(self) -> bool:
        """Whether it is a rate in bytes, which is shown with three digits."""
        return self.units.startswith("bytes")

    @property
    def units_and_word(self) -> tuple[str, str]:
        """The units, and the word before the number in the totals, such as ("calls/s", "read").

        If the units begin with the word, it is not repeated: "err" and "errors/s" become ("err/s", "").
        """
        word = self.name or self.header.lower()
        if not self.units.startswith(word):
            return self.units, word
        return word + self.units.removeprefix(self.units.partition("/")[0]), ""


PID = Column(key="pid", header="PID", letter="P", width=7, rank=0)
USER = Column(key="user", header="USER", letter="U", width=8, rank=14, widest=16)
COMMAND = Column(key="command", header="COMMAND", letter="N", width=12, rank=1, widest=16)
COUNT = Column(key="count", header="PROCS", letter="P", width=5, rank=1)
IDENTITY_COLUMNS: dict[Mode, tuple[Column, ...]] = {
    "processes": (PID, USER, Column(key="group", header="GROUP", letter="G", width=10, rank=9, widest=24), COMMAND),
    "groups": (Column(key="group", header="GROUP", letter="G", width=12, rank=0, widest=48), COUNT),
}
"""The columns that identify a line, by mode, in their order on the screen."""
RESERVED = frozenset({"", *(c.letter for columns in IDENTITY_COLUMNS.values() for c in columns)})
"""Letters that rates cannot have."""


def rates(declared: Iterable[model.Column]) -> tuple[Column, ...]:
    """Return the rates that probes declare, each id once, in the order of the declarations.

    If several columns have the same letter, it sorts by the first of them.
    """
    by_key: dict[str, Column] = {}
    letters = set(RESERVED)
    for column in declared:
        if column.id in by_key:
            continue
        letter = "" if column.letter in letters else column.letter
        letters.add(letter)
        by_key[column.id] = Column(
            key=column.id, header=column.header, letter=letter, width=max(column.width, len(column.header), 4),
            rank=column.rank, units=column.units, name=column.name, summary=column.summary,
        )  # fmt: skip
    return tuple(by_key.values())


def sort_keys(declared: Iterable[model.Column]) -> dict[str, str]:
    """Return the keys of all columns that a table can be sorted by, with their headers in lower case."""
    identity = (column for columns in IDENTITY_COLUMNS.values() for column in columns)
    return {c.key: c.header.lower() for c in (*identity, *rates(declared)) if not c.summary}
