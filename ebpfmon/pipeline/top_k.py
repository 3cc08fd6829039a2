"""Select the keys that get a series of their own: the most active ones, with hysteresis. No I/O."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebpfmon.model.table import Rows
from ebpfmon.pipeline.aggregate import (
    FEW,
    Aggregator,
    GroupedRows,
    concatenate_rows,
    key_columns,
    take_or_zero,
    take_rows,
)

HALF_LIFE_S = 60.0
"""The half-life of a key's activity. Older activity counts less when keys are compared."""
FACTOR = 2.0
"""A hidden key replaces a selected one when its activity is more than this many times as high."""
EXPIRY_S = 300.0
"""A key that has been idle this long is no longer selected."""
_HIDDEN_PER_SELECTED = 2
"""How many hidden keys keep their activity, totals and start, as a multiple of the maximum."""
_MIN_ACTIVITY = 2.0**-10
"""A key that was never selected is forgotten below this activity: ten minutes after a single call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The known keys after an interval, and what each of them counted.

    `previous` (keys,) has the index that each key had among the known keys of the interval before, or -1 if it is new.
    It is None if the known keys are unchanged. The first `selected` known keys have series: first those that were
    selected before, in the same order, then new ones, busiest first. `sums` (keys, columns) is what each known key
    counted in the interval.
    """

    previous: NDArray[np.intp] | None
    selected: int
    sums: NDArray[np.int64]


class TopK:
    """A selection of at most `maximum` keys.

    While there is room, every active key is selected at once. After that, a hidden key replaces the least active
    selected one only when it has been more than twice as active over the last minutes. This keeps series from coming
    and going every second. A key that is idle for five minutes is no longer selected.
    """

    def __init__(self, fields: Sequence[str], maximum: int) -> None:
        """Create an empty selection. `fields` are the integer fields of a row that make up its key."""
        self._fields, self._maximum = tuple(fields), maximum
        self._aggregator = Aggregator(len(self._fields))
        # One row for each known key: the selected keys come first, then the busiest hidden ones.
        self._rows: Rows | None = None
        # The activity of each known key, and whether it was ever selected.
        self._activity = np.zeros(0)
        self._was_selected = np.zeros(0, bool)
        # How long each selected key has been idle.
        self._idle_s = np.zeros(0)
        # The index of each selected key; filled on first use.
        self._indices: dict[Hashable, int] = {}

    @property
    def rows(self) -> Rows:
        """The first row seen of each selected key, in the order of the last selection."""
        assert self._rows is not None, "select() was not called yet"
        return self._rows[: len(self._idle_s)]

    def age(self, elapsed_s: float) -> bool:
        """Account for an interval in which no key was active.

        Return False, and change nothing, if a key expires in it. The caller must then call `select`.
        """
        if len(self._idle_s) and self._idle_s.max() + elapsed_s >= EXPIRY_S:
            return False
        self._idle_s += elapsed_s
        self._activity *= 0.5 ** (elapsed_s / HALF_LIFE_S)
        return True

    def select(
        self, rows: Rows, numbers: NDArray[np.int64], weights: NDArray[np.float64], elapsed_s: float
    ) -> Selection:
        """Add an interval and return the new selection.

        `numbers` (rows, columns) are the numbers of the rows; rows with equal keys are summed. `weights` (columns,) is
        how much each column contributes to the activity of a key.
        """
        indices = self._selected_indices(rows)
        # The selection cannot change if only selected keys were active, if none of them is about to expire, and if all
        # known keys were selected before.
        if indices is not None and self._idle_s.max(initial=0.0) + elapsed_s < EXPIRY_S and self._was_selected.all():
            return self._keep_selection(indices, numbers, weights, elapsed_s)
        self._indices = {}
        known = rows[:0] if self._rows is None else self._rows
        # To match the rows with the known keys, group both together. The known keys come first.
        all_rows = concatenate_rows(known, rows)
        groups = self._aggregator.group(key_columns(all_rows, self._fields))
        first = groups.first
        sums = _Sums(groups, numbers, len(known))
        known_groups = np.flatnonzero(first < len(known))
        group_of_known = np.empty(len(known), np.intp)
        group_of_known[first[known_groups]] = known_groups

        new_activity = sums.weighted(weights)
        activity = new_activity.copy()
        activity[group_of_known] += self._activity * 0.5 ** (elapsed_s / HALF_LIFE_S)
        selected_before = group_of_known[: len(self._idle_s)]
        idle_s = np.where(new_activity[selected_before] > 0, 0.0, self._idle_s + elapsed_s)
        staying = np.flatnonzero(idle_s < EXPIRY_S)
        replaced, added = self._replacements(activity, first, selected_before[staying], new_activity > 0)
        staying = np.delete(staying, replaced)
        selected = np.concatenate((selected_before[staying], added))
        self._idle_s = np.concatenate((idle_s[staying], np.zeros(len(added))))

        was_selected = np.zeros(len(groups), bool)
        was_selected[group_of_known] = self._was_selected
        was_selected[selected] = True
        # A key that was ever selected keeps its totals as long as there is room for it.
        candidates = _without((activity > _MIN_ACTIVITY) | was_selected, selected)
        hidden = _busiest(activity, first, candidates, _HIDDEN_PER_SELECTED * self._maximum)
        kept = np.concatenate((selected, hidden))
        self._rows = take_rows(all_rows, first[kept])
        self._activity, self._was_selected = activity[kept], was_selected[kept]
        previous = np.where(first[kept] < len(known), first[kept], -1)
        return Selection(previous=previous, selected=len(selected), sums=sums.take(kept))

    def _selected_indices(self, rows: Rows) -> list[int] | None:
        """Return the index of each row's key among the selected keys.

        Return None if a key is not selected, or if there are more than FEW rows.
        """
        if self._rows is None or len(rows) > FEW:
            return None
        if not self._indices:
            self._indices = {key: n for n, key in enumerate(self._keys(self.rows))}
        indices = [self._indices.get(key, -1) for key in self._keys(rows)]
        return None if -1 in indices else indices

    def _keys(self, rows: Rows) -> Iterator[Hashable]:
        return zip(*(rows[name].tolist() for name in self._fields), strict=True)

    def _keep_selection(
        self, indices: list[int], numbers: NDArray[np.int64], weights: NDArray[np.float64], elapsed_s: float
    ) -> Selection:
        """Add an interval in which only selected keys counted. The selection does not change."""
        assert self._rows is not None
        sums = np.zeros((len(self._rows), numbers.shape[1]), np.int64)
        np.add.at(sums, indices, numbers)
        new_activity = sums @ weights
        self._activity = self._activity * 0.5 ** (elapsed_s / HALF_LIFE_S) + new_activity
        selected = len(self._idle_s)
        self._idle_s = np.where(new_activity[:selected] > 0, 0.0, self._idle_s + elapsed_s)
        return Selection(previous=None, selected=selected, sums=sums)

    def _replacements(
        self,
        activity: NDArray[np.float64],
        first: NDArray[np.intp],
        selected: NDArray[np.intp],
        active: NDArray[np.bool_],
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the positions in `selected` (groups) to give up, and the `active` groups to select instead."""
        challengers = _busiest(activity, first, _without(active, selected), self._maximum)
        room = self._maximum - len(selected)
        # Compare the busiest challenger with the least busy selected key, the second with the second, and so on. If
        # one of them is not busy enough to win, none of the following is.
        without_room = challengers[room:]
        weakest = np.argsort(activity[selected], kind="stable")[: len(without_room)]
        replaced = weakest[activity[without_room] > FACTOR * activity[selected[weakest]]]
        return replaced, challengers[: room + len(replaced)]


class _Sums:
    """The sums of the rows of each group."""

    def __init__(self, groups: GroupedRows, numbers: NDArray[np.int64], known: int) -> None:
        """Sum `numbers` (rows, columns) by group.

        `groups` has `known` more rows than `numbers`, at its beginning: the known keys, which have no numbers.
        """
        self._numbers = numbers
        # Usually no two rows have the same key. Then this is the row of each group, negative if it has none.
        self._row = groups.last - known
        if np.count_nonzero(self._row >= 0) < len(numbers):  # Several rows have the same key.
            zeros = np.zeros((known, numbers.shape[1]), np.int64)
            self._numbers, self._row = groups.sums(np.vstack((zeros, numbers))), np.arange(len(groups))

    def weighted(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted sum of each group, (groups,)."""
        return take_or_zero(self._numbers @ weights, self._row)

    def take(self, groups: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the sums of these groups, (groups, columns)."""
        return take_or_zero(self._numbers, self._row[groups])


def _without(groups: NDArray[np.bool_], excluded: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the indices at which the mask `groups` is true, without the excluded indices."""
    groups = groups.copy()
    groups[excluded] = False
    return np.flatnonzero(groups)


def _busiest(
    activity: NDArray[np.float64], first: NDArray[np.intp], groups: NDArray[np.intp], count: int
) -> NDArray[np.intp]:
    """Return at most `count` of these groups (indices of `activity`), busiest first.

    Equally busy groups are in the order of their first rows.
    """
    if not count:
        return groups[:0]
    if len(groups) > count:
        idleness = -activity[groups]
        limit = np.partition(idleness, count - 1)[count - 1]
        busier, equal = groups[idleness < limit], groups[idleness == limit]
        equal = equal[np.argsort(first[equal])[: count - len(busier)]]
        groups = np.concatenate((busier, equal))
    return groups[np.lexsort((first[groups], -activity[groups]))]
