"""Rows by keys of their own to the charts by key: as many keys as may be shown, the rest in `other`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ebpfmon.model.everything import Chart, ChartValues, Dimension, Keys, Kind, TableHarvest, Value
from ebpfmon.pipeline.aggregate import Grouping
from ebpfmon.pipeline.gauges import Levels

_HALF_LIFE_S = 60.0  # of what a key did, when it is compared with others
_TIMES = 2.0  # as active as a key that is shown must another be to take its place
_EXPIRY_S = 60.0  # after so long without anything a key is no longer shown
_FORGOTTEN = 2.0**-10  # of a call, in the activity of a hidden key: ten minutes after its last one
_REMEMBERED = 2  # times as many hidden keys as may be shown: so many have their activity remembered

Label = tuple[str, str]


class Shown:
    """Which keys have dimensions of their own: the most active ones, but none comes and goes from second to second.

    As long as there is room, a key is shown at once. Then one that is hidden takes the place of the least active one
    when it has been more than twice as active, over the last minutes. One that does nothing for a minute is given up.
    """

    def __init__(self, fields: tuple[str, ...], maximum: int) -> None:
        self._fields, self._maximum = fields, maximum
        self._grouping = Grouping(len(fields))
        self._known: np.ndarray | None = None  # a row of each key that is shown, then of the busiest hidden ones
        self._activity = np.zeros(0)  # of these, one each
        self._idle_s = np.zeros(0)  # of those that are shown, how long they have done nothing

    def choose(
        self, rows: np.ndarray, counters: np.ndarray, weights: np.ndarray, elapsed_s: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take in an interval: its rows (structured), and what they count as i64 (rows, counters); `weights`
        (counters,): how much of each is activity.

        Returns which of the keys that were shown still are (their old places, ascending), and what each that is shown
        now did in the interval, i64 (keys, counters): first those that stay, then those that come, busiest first.
        """
        known = rows[:0] if self._known is None else self._known
        if not len(rows) and not self:
            self._known = known
            return np.zeros(0, np.intp), counters
        # what is known goes before the rows as if it had done nothing, and is found as they are grouped
        rows = _joined(known, rows)
        counters = np.vstack((np.zeros((len(known), counters.shape[1]), np.int64), counters))
        order, starts = self._grouping.group(_columns(rows, self._fields, np.uint64))
        sums = np.add.reduceat(counters[order], starts, axis=0)
        first = np.minimum.reduceat(order, starts)  # where each group was seen first: the known ones are known by it
        old = np.flatnonzero(first < len(known))
        group_of = np.empty(len(known), np.intp)
        group_of[first[old]] = old

        did = sums @ weights
        activity = did.copy()
        activity[group_of] += self._activity * 0.5 ** (elapsed_s / _HALF_LIFE_S)
        before = group_of[: len(self._idle_s)]
        idle_s = np.where(did[before] > 0, 0.0, self._idle_s + elapsed_s)
        stay = np.flatnonzero(idle_s < _EXPIRY_S)
        beaten, coming = self._contest(activity, before[stay], did > 0)
        stay = np.delete(stay, beaten)
        shown = np.concatenate((before[stay], coming))

        self._idle_s = np.concatenate((idle_s[stay], np.zeros(len(coming))))
        hidden = _busiest(activity, _without(activity > _FORGOTTEN, shown), _REMEMBERED * self._maximum)
        kept = np.concatenate((shown, hidden))
        self._known, self._activity = rows[first[kept]], activity[kept]
        return stay, sums[shown]

    def __bool__(self) -> bool:
        """Whether any key is known, shown or not."""
        return self._known is not None and len(self._known) > 0

    @property
    def rows(self) -> np.ndarray:
        """The first row that was seen of each key that is shown, in the order of the last `choose`."""
        assert self._known is not None, "nothing was chosen yet"
        return self._known[: len(self._idle_s)]

    def _contest(self, activity: np.ndarray, shown: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which places in `shown` (groups) are lost, and which of the `active` groups (bool) are shown anew."""
        rivals = _busiest(activity, _without(active, shown), self._maximum)
        room = self._maximum - len(shown)
        # the busiest against the weakest, the next against the next: no one who came just now is in the way of one less
        # busy, as that would have to be twice as busy
        contest = rivals[room:]
        weakest = np.argsort(activity[shown], kind="stable")[: len(contest)]
        beaten = weakest[activity[contest] > _TIMES * activity[shown[weakest]]]
        return beaten, rivals[: room + len(beaten)]


class Keyed:
    """Makes the values of the charts by key of one table, and keeps the running totals of what is shown."""

    def __init__(self, charts: Iterable[Chart], keys: Keys) -> None:
        """`charts`: each of their dimensions stands for one of every key's."""
        self._charts, self._keys = tuple(charts), keys
        self._shown = Shown(keys.fields, keys.maximum)
        self.levels = Levels(self._charts, keys.fields)
        self._totals: np.ndarray | None = None  # i64 (keys that are shown and `other`, counters)
        self._dimensions: dict[Label, tuple[tuple[Dimension, ...], ...]] = {}  # by chart
        self._still: tuple[ChartValues, ...] = ()  # if no key is known and nothing happened: the next may be alike
        self._signs: dict[tuple[str, ...], list[np.ndarray]] = {}  # of which counters, by chart

    def account(self, table: TableHarvest, elapsed_s: float) -> list[ChartValues]:
        """One interval as the values of all charts: of the keys in the order in which they came, then of `other`.

        The sum over all keys and `other` is, to the unit, the table's totals less the rows that are not wanted. A
        key's `total` begins when it is shown. One that has a level is active.
        """
        names = tuple(table.totals)
        rows, total = self._wanted(table, names)
        still = not len(rows) and not total.any() and not self._shown and not self.levels
        if still and self._still:
            return list(self._still)
        counters = _columns(rows, names, np.int64)
        weights = np.array([not name.endswith("_ns") for name in names], np.float64)  # time says not who does most
        if self.levels:
            rows, counters, total, weights = self._with_levels(rows, names, counters, total, weights)
        stay, sums = self._shown.choose(rows, counters, weights, elapsed_s)
        deltas = np.vstack((sums, total - sums.sum(axis=0)))
        totals = deltas.copy()
        if self._totals is not None:
            totals[: len(stay)] += self._totals[stay]
            totals[-1] += self._totals[-1]
        self._totals = totals
        of_labels = self._named()
        values, level = [], len(names)
        if names not in self._signs:  # they are always the same
            self._signs = {names: [_signs(chart, names) for chart in self._charts]}
        for n, (chart, signs) in enumerate(zip(self._charts, self._signs[names], strict=True)):
            of_keys = [each[n] for each in of_labels]
            if chart.kind is Kind.LEVEL:
                now = deltas[:, level : (level := level + len(chart.dimensions))]
                values.append(_of_keys(chart, of_keys, now, np.zeros_like(now)))
            else:
                values.append(
                    _of_keys(chart, of_keys, deltas[:, : len(names)] @ signs, totals[:, : len(names)] @ signs)
                )
        self._still = tuple(values) if still else ()
        return values

    def _with_levels(
        self, rows: np.ndarray, names: Sequence[str], counters: np.ndarray, total: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """... with a row more for each key that has a level, and a column more for each level."""
        self.levels.add(rows, names, counters, total)
        of_levels = self.levels.rows
        assert of_levels is not None, "it was just added to"
        counters = np.hstack((counters, np.zeros((len(rows), len(self.levels)), np.int64)))
        more = np.hstack((np.zeros((len(of_levels), len(names)), np.int64), self.levels.values))
        return (
            _joined(rows, of_levels),
            np.vstack((counters, more)),
            np.concatenate((total, self.levels.total)),
            np.concatenate((weights, np.ones(len(self.levels)))),
        )

    def _wanted(self, table: TableHarvest, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The rows that count, and the totals without the others: i64 (counters,)."""
        total = np.array([table.totals[name] for name in names], np.int64)
        wanted = self._keys.wanted(table.rows)
        if wanted is None:
            return table.rows, total
        total -= _columns(_raw(table.rows)[~wanted].view(table.rows.dtype), names, np.int64).sum(axis=0)
        return _raw(table.rows)[wanted].view(table.rows.dtype), total

    def _named(self) -> list[tuple[tuple[Dimension, ...], ...]]:
        """The dimensions of each key that is shown, then of `other`, by chart. Those of the last tick are kept."""
        labels = [*self._keys.labels(self._shown.rows), (self._keys.other, self._keys.other)]
        self._dimensions = {label: self._dimensions.get(label) or self._made(label) for label in labels}
        return [self._dimensions[label] for label in labels]

    def _made(self, label: Label) -> tuple[tuple[Dimension, ...], ...]:
        return tuple(tuple(_dimension(each, label) for each in chart.dimensions) for chart in self._charts)


def _columns(rows: np.ndarray, names: Sequence[str], dtype: type[np.uint64 | np.int64]) -> np.ndarray:
    """Integer fields of a structured array: (rows, names)."""
    columns = np.empty((len(rows), len(names)), dtype)
    for n, name in enumerate(names):
        columns[:, n] = rows[name]
    return columns


def _raw(rows: np.ndarray) -> np.ndarray:
    """Rows without their fields: numpy copies structured arrays field by field, which takes ten times as long."""
    return rows.view(f"V{rows.dtype.itemsize}")


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.concatenate((_raw(first), _raw(second))).view(second.dtype)


def _without(groups: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """The indices at which `groups` (bool) is true, but for the `excluded` ones."""
    groups = groups.copy()
    groups[excluded] = False
    return np.flatnonzero(groups)


def _busiest(activity: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Of these groups (indices of `activity`) as many, the most active ones, busiest first."""
    idleness = -activity[groups]
    if len(groups) > count:
        chosen = np.argpartition(idleness, count)[:count]
        groups, idleness = groups[chosen], idleness[chosen]
    return groups[np.argsort(idleness, kind="stable")]


def _dimension(template: Dimension, label: Label) -> Dimension:
    key, name = label
    if template.id:
        key, name = f"{key}_{template.id}", f"{name}_{template.name}"
    return Dimension(key, name, template.plus, template.minus, template.negative)


def _signs(chart: Chart, names: Sequence[str]) -> np.ndarray:
    """What each counter adds to each dimension: (counters, dimensions)."""
    return np.array([[d.plus.count(f) - d.minus.count(f) for d in chart.dimensions] for f in names], np.int64)


def _of_keys(chart: Chart, of_keys: list[tuple[Dimension, ...]], deltas: np.ndarray, totals: np.ndarray) -> ChartValues:
    """`deltas` and `totals` are (keys, dimensions)."""
    each = zip(of_keys, deltas.tolist(), totals.tolist(), strict=True)
    return ChartValues(chart, tuple(Value(*value) for of_key in each for value in zip(*of_key, strict=True)))
