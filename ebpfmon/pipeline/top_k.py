"""Select the keys that have a series of their own: the most active ones, with hysteresis. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebpfmon.model.table import Rows
from ebpfmon.pipeline.aggregate import FEW, Aggregator, Groups, at, concatenated, key_of, taken

HALF_LIFE_S = 60.0
"""The half-life of what a key did, when keys are compared."""
FACTOR = 2.0
"""A hidden key takes the place of a selected one when it has been more than so many times as active."""
EXPIRY_S = 300.0
"""After so long without anything a key is no longer selected."""
_REMEMBERED = 2  # times the maximum: so many hidden keys keep their activity, totals and start
_FORGOTTEN = 2.0**-10  # of a call, in the activity of a key that was never selected: ten minutes after its last call


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What became of the keys in an interval.

    `known` (keys,) says for each known key which of the formerly known keys it was, -1 if it is new; None if the known
    keys are unchanged. The first `selected` of the known keys have series: those that stay in their order, then those
    that came, busiest first. `sums` is what each known key counted in the interval, (keys, columns).
    """

    known: NDArray[np.intp] | None
    selected: int
    sums: NDArray[np.int64]


class TopK:
    """Select at most `maximum` keys.

    As long as there is room every active key is selected at once. Then a hidden key takes the place of the least active
    selected one when it has been more than twice as active over the last minutes, so that no series comes and goes from
    second to second. A key that does nothing for five minutes is no longer selected.
    """

    def __init__(self, fields: Sequence[str], maximum: int) -> None:
        """`fields` are the integer fields of a row that make up its key."""
        self._fields, self._maximum = tuple(fields), maximum
        self._aggregator = Aggregator(len(self._fields))
        self._rows: Rows | None = None  # a row of each known key: the selected ones, then the busiest hidden ones
        self._activity = np.zeros(0)  # of each known key
        self._was_selected = np.zeros(0, bool)  # whether each known key was ever selected
        self._idle_s = np.zeros(0)  # how long each selected key has done nothing
        self._places: dict[Hashable, int] = {}  # of the selected keys, once they are asked for

    @property
    def rows(self) -> Rows:
        """The first row that was seen of each selected key, in the order of the last selection."""
        assert self._rows is not None, "nothing was selected yet"
        return self._rows[: len(self._idle_s)]

    def age(self, elapsed_s: float) -> bool:
        """Let an interval pass in which no key did anything. Return False, and change nothing, if a key expires in it:
        then `select` must be called."""
        if len(self._idle_s) and self._idle_s.max() + elapsed_s >= EXPIRY_S:
            return False
        self._idle_s += elapsed_s
        self._activity *= 0.5 ** (elapsed_s / HALF_LIFE_S)
        return True

    def select(
        self, rows: Rows, numbers: NDArray[np.int64], weights: NDArray[np.float64], elapsed_s: float
    ) -> Selection:
        """Take in an interval: its rows, their numbers (rows, columns), and how much each column is activity
        (columns,).

        Rows with equal keys are summed.
        """
        places = self._places_of(rows)
        # then no key can be selected anew, expire or be forgotten
        if places is not None and self._idle_s.max(initial=0.0) + elapsed_s < EXPIRY_S and self._was_selected.all():
            return self._keep_selection(places, numbers, weights, elapsed_s)
        self._places = {}
        known = rows[:0] if self._rows is None else self._rows
        # known keys go before the rows, and are matched as the rows are grouped
        together = concatenated(known, rows)
        groups = self._aggregator.group(key_of(together, self._fields))
        first = groups.first
        sums = _Sums(groups, numbers, len(known))
        old = np.flatnonzero(first < len(known))
        group_of = np.empty(len(known), np.intp)  # of each known key
        group_of[first[old]] = old

        did = sums.weighted(weights)
        activity = did.copy()
        activity[group_of] += self._activity * 0.5 ** (elapsed_s / HALF_LIFE_S)
        before = group_of[: len(self._idle_s)]
        idle_s = np.where(did[before] > 0, 0.0, self._idle_s + elapsed_s)
        stay = np.flatnonzero(idle_s < EXPIRY_S)
        beaten, coming = self._contest(activity, first, before[stay], did > 0)
        stay = np.delete(stay, beaten)
        selected = np.concatenate((before[stay], coming))
        self._idle_s = np.concatenate((idle_s[stay], np.zeros(len(coming))))

        was_selected = np.zeros(len(groups), bool)
        was_selected[group_of] = self._was_selected
        was_selected[selected] = True
        # a key that was selected once keeps its totals as long as there is room for it
        candidates = _without((activity > _FORGOTTEN) | was_selected, selected)
        hidden = _busiest(activity, first, candidates, _REMEMBERED * self._maximum)
        kept = np.concatenate((selected, hidden))
        self._rows = taken(together, first[kept])
        self._activity, self._was_selected = activity[kept], was_selected[kept]
        was = np.where(first[kept] < len(known), first[kept], -1)
        return Selection(known=was, selected=len(selected), sums=sums.of(kept))

    def _places_of(self, rows: Rows) -> list[int] | None:
        """Return the place of each row's key among the selected keys; None if a key is not selected or there are more
        than FEW rows."""
        if self._rows is None or len(rows) > FEW:
            return None
        if not self._places:
            self._places = {key: n for n, key in enumerate(self._keys(self.rows))}
        places = [self._places.get(key, -1) for key in self._keys(rows)]
        return None if -1 in places else places

    def _keys(self, rows: Rows) -> Iterator[Hashable]:
        return zip(*(rows[name].tolist() for name in self._fields), strict=True)

    def _keep_selection(
        self, places: list[int], numbers: NDArray[np.int64], weights: NDArray[np.float64], elapsed_s: float
    ) -> Selection:
        """Take in an interval in which only selected keys counted. The selection does not change."""
        assert self._rows is not None
        sums = np.zeros((len(self._rows), numbers.shape[1]), np.int64)
        np.add.at(sums, places, numbers)
        did = sums @ weights
        self._activity = self._activity * 0.5 ** (elapsed_s / HALF_LIFE_S) + did
        selected = len(self._idle_s)
        self._idle_s = np.where(did[:selected] > 0, 0.0, self._idle_s + elapsed_s)
        return Selection(known=None, selected=selected, sums=sums)

    def _contest(
        self,
        activity: NDArray[np.float64],
        first: NDArray[np.intp],
        selected: NDArray[np.intp],
        active: NDArray[np.bool_],
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return which places in `selected` (groups) are lost, and which of the `active` groups are selected anew."""
        rivals = _busiest(activity, first, _without(active, selected), self._maximum)
        room = self._maximum - len(selected)
        # the busiest against the weakest, the next against the next: no rival is in the way of a less busy one, which
        # would have to be twice as busy
        contest = rivals[room:]
        weakest = np.argsort(activity[selected], kind="stable")[: len(contest)]
        beaten = weakest[activity[contest] > FACTOR * activity[selected[weakest]]]
        return beaten, rivals[: room + len(beaten)]


class _Sums:
    """What the rows of each group counted, if the first `known` of the grouped rows are keys that counted nothing."""

    def __init__(self, groups: Groups, numbers: NDArray[np.int64], known: int) -> None:
        """`numbers` (rows, columns): of the other rows."""
        self._numbers = numbers
        self._row = groups.last - known
        """The only row of each group, negative if it has none."""
        if np.count_nonzero(self._row >= 0) < len(numbers):  # several rows have the same key
            zeros = np.zeros((known, numbers.shape[1]), np.int64)
            self._numbers, self._row = groups.sums(np.vstack((zeros, numbers))), np.arange(len(groups))

    def weighted(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted sum of each group, (groups,)."""
        return at(self._numbers @ weights, self._row)

    def of(self, which: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the sums of some of the groups, (groups, columns)."""
        return at(self._numbers, self._row[which])


def _without(groups: NDArray[np.bool_], excluded: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the indices at which `groups` is true, without the excluded ones."""
    groups = groups.copy()
    groups[excluded] = False
    return np.flatnonzero(groups)


def _busiest(
    activity: NDArray[np.float64], first: NDArray[np.intp], groups: NDArray[np.intp], count: int
) -> NDArray[np.intp]:
    """Return at most so many of these groups (indices of `activity`), busiest first, and equals in the order of their
    first rows."""
    if not count:
        return groups[:0]
    if len(groups) > count:
        idleness = -activity[groups]
        limit = np.partition(idleness, count - 1)[count - 1]
        busier, equal = groups[idleness < limit], groups[idleness == limit]
        equal = equal[np.argsort(first[equal])[: count - len(busier)]]
        groups = np.concatenate((busier, equal))
    return groups[np.lexsort((first[groups], -activity[groups]))]
