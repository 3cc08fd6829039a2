"""Rows and their owners to the charts by application: as many groups as may be shown, the rest in `other`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ebpfmon.model.everything import Chart, ChartValues, Dimension, Owners, Scope, TableHarvest, Value

_HALF_LIFE_S = 60.0  # of what a group did, when it is compared with others
_TIMES = 2.0  # as active as a group that is shown must another be to take its place


class Shown:
    """Which groups have a dimension of their own: the most active ones, but none comes and goes from second to second.

    As long as there is room every group is shown, for good. Then one that is hidden takes the place of the least active
    one when it has been twice as active, over the last minutes. What that one did stays its own: no total ever jumps.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._activity = np.zeros(0)
        self.ids: list[int] = []
        """In the order in which they came."""

    def choose(self, calls: np.ndarray, elapsed_s: float) -> None:
        """Take in what each group did in an interval."""
        if len(calls) > len(self._activity):
            self._activity = np.append(self._activity, np.zeros(len(calls) - len(self._activity)))
        self._activity *= 0.5 ** (elapsed_s / _HALF_LIFE_S)
        self._activity += calls
        hidden = self._hidden()
        for group in hidden[np.argsort(-self._activity[hidden], kind="stable")].tolist():
            if len(self.ids) < self._maximum:
                self.ids.append(group)
                continue
            least = min(self.ids, key=self._activity.__getitem__)
            if self._activity[group] <= _TIMES * self._activity[least]:
                break
            self.ids.remove(least)
            self.ids.append(group)

    def idlest(self, share: float) -> frozenset[int]:
        """This share of the groups that are not shown, those that were least active."""
        known = np.arange(Owners.OVERFLOW + 1, len(self._activity))
        hidden = np.setdiff1d(known, self.ids)
        return frozenset(hidden[np.argsort(self._activity[hidden])][: int(len(hidden) * share)].tolist())

    def forget(self, ids: frozenset[int]) -> None:
        """These ids are other groups' from now on."""
        self._activity[list(ids)] = 0

    def _hidden(self) -> np.ndarray:
        active = self._activity >= 1
        active[[Owners.OTHER, Owners.OVERFLOW, *self.ids]] = False
        return np.flatnonzero(active)


class Applications:
    """Keeps the running totals of all groups, and makes the values of the charts by application."""

    def __init__(self, charts: Mapping[str, Iterable[Chart]], maximum: int) -> None:
        """`charts`: by table. Those by application declare one dimension, which stands for every group's."""
        self._charts = {stem: tuple(c for c in of_table if c.scope is Scope.APPS) for stem, of_table in charts.items()}
        self._shown = Shown(maximum)
        self._totals: dict[str, np.ndarray] = {}
        self._signs: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}  # by table, and of which counters
        self._still: dict[str, tuple[tuple[str, ...], list[ChartValues]]] = {}
        """By table the last values; and of which groups, where nothing had happened: the next may be alike."""
        self._weights: dict[tuple[str, ...], np.ndarray] = {}
        self._dimensions: dict[str, tuple[tuple[str, ...], tuple[Dimension, ...]]] = {}  # by chart, and of which groups

    def account(
        self, tables: Mapping[str, TableHarvest], owners: Mapping[str, Owners], elapsed_s: float
    ) -> list[ChartValues]:
        """One interval as the values of all charts. Their sum over all dimensions is the system's, to the call."""
        sums = {stem: _sums(tables[stem], of_table) for stem, of_table in owners.items()}
        if sums:
            calls = [found @ self._weights_of(tuple(tables[stem].totals)) for stem, found in sums.items()]
            self._shown.choose(sum(calls[1:], calls[0]), elapsed_s)
        values: list[ChartValues] = []
        ids = [*self._shown.ids, Owners.OTHER, Owners.OVERFLOW]
        for stem, found in sums.items():
            groups = tuple(owners[stem].groups[group] for group in ids)
            still = not found.any()
            if not still or self._still.get(stem, ((), ()))[0] != groups:
                self._fold(found)
                totals = self._grown(stem, found.shape)
                totals += found
                names = tuple(tables[stem].totals)
                self._still[stem] = (
                    groups if still else (),
                    [*self._values(stem, found[ids], totals[ids], names, groups)],
                )
            values += self._still[stem][1]
        return values

    def idlest(self, share: float) -> frozenset[int]:
        """See `Shown.idlest`."""
        return self._shown.idlest(share)

    def forget(self, ids: frozenset[int]) -> None:
        """These ids are other groups' from now on, which begin at 0."""
        self._shown.forget(ids)
        for totals in self._totals.values():
            totals[[group for group in ids if group < len(totals)]] = 0
        self._dimensions.clear()
        self._still.clear()

    def _weights_of(self, names: tuple[str, ...]) -> np.ndarray:
        """How much of each counter is activity: all that is done, as calls and not as bytes or time."""
        if names not in self._weights:
            self._weights[names] = np.array([not name.endswith(("_bytes", "_ns")) for name in names], np.int64)
        return self._weights[names]

    def _fold(self, sums: np.ndarray) -> None:
        """What is not shown goes to `other`."""
        hidden = np.ones(len(sums), bool)
        hidden[[Owners.OTHER, Owners.OVERFLOW, *self._shown.ids]] = False
        if hidden.any():
            sums[Owners.OTHER] += sums[hidden].sum(axis=0)
            sums[hidden] = 0

    def _grown(self, stem: str, shape: tuple[int, ...]) -> np.ndarray:
        totals = self._totals.get(stem)
        if totals is None:
            totals = np.zeros((0, shape[1]), np.int64)
        if len(totals) < shape[0]:
            totals = np.vstack((totals, np.zeros((shape[0] - len(totals), shape[1]), np.int64)))
        self._totals[stem] = totals
        return totals

    def _values(
        self, stem: str, sums: np.ndarray, totals: np.ndarray, names: tuple[str, ...], groups: tuple[str, ...]
    ) -> Iterator[ChartValues]:
        """`sums` and `totals` are (groups, counters), the counters as `names` has them."""
        charts = self._charts.get(stem, ())
        signs = self._signs.get((stem, names))
        if signs is None:
            signs = self._signs[stem, names] = _signs(charts, names)
        deltas, amounts = ((of @ signs).T.tolist() for of in (sums, totals))  # of all charts: it is done once
        for chart, *of_chart in zip(charts, deltas, amounts, strict=True):
            yield ChartValues(chart, tuple(map(Value, self._named(chart, groups), *of_chart)))

    def _named(self, chart: Chart, groups: tuple[str, ...]) -> tuple[Dimension, ...]:
        """A chart's dimensions of these groups. Those of the last tick are kept, as they seldom change."""
        known, dimensions = self._dimensions.get(chart.id, ((), ()))
        if known != groups:
            of_groups = dict(zip(known, dimensions, strict=True))
            (each,) = chart.dimensions
            dimensions = tuple(
                of_groups.get(name) or Dimension(name, name, each.plus, each.minus, each.negative) for name in groups
            )
            self._dimensions[chart.id] = groups, dimensions
        return dimensions


def _signs(charts: Sequence[Chart], names: Sequence[str]) -> np.ndarray:
    """How often each counter counts for each chart's one dimension: i64 (counters, charts)."""
    each = [d for chart in charts for d in chart.dimensions]
    return np.array([[d.plus.count(f) - d.minus.count(f) for d in each] for f in names], np.int64)


def _sums(table: TableHarvest, owners: Owners) -> np.ndarray:
    """The counters of each group, one row a group id, in the order of the table's totals; the overflow has its own."""
    sums = np.zeros((len(owners.groups), len(table.totals)), np.int64)
    if len(table.rows):
        counters = table.rows.view(np.int64).reshape(len(table.rows), -1)[:, -len(table.totals) :]
        order = np.argsort(owners.of_rows.astype(np.uint16), kind="stable")
        ids = owners.of_rows[order]
        first = np.flatnonzero(np.diff(ids, prepend=-1))  # where in that order each group begins
        sums[ids[first]] = np.add.reduceat(counters[order], first, axis=0)
    sums[Owners.OVERFLOW] += np.array([table.overflow[name] for name in table.totals], np.int64)
    return sums
