"""The words that everybody uses. Data only: nothing here does I/O."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, Self

import msgspec

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np

API_VERSION = 1
"""The version of everything that `ebpfmon` exports. A plugin states the one it was written for."""


class Kind(enum.StrEnum):
    """What the values of a chart are."""

    COUNTER = "counter"
    """Something that happened: each value is the interval's amount. It may be negative (a difference)."""
    LEVEL = "level"
    """Something that is: each value is the state at the end of the interval. Over a table it is what the counters of
    `plus` have counted since the probe was loaded, less those of `minus`: the requests in flight, if one counts a
    request's start and the other its end. It is exact if the C file counts the end of nothing whose start it did not
    count: what was under way before is then left out."""


class LoadMode(enum.StrEnum):
    """How much is counted."""

    ENTRY = "entry"
    """Calls and bytes."""
    RETURN = "return"
    """Calls, bytes and errors."""


class Strategy(enum.StrEnum):
    """The ways to see an event in the kernel."""

    TRAMPOLINE = "trampoline"
    """fentry and fexit."""
    KPROBE = "kprobe"
    """kprobe and kretprobe."""
    TRACEPOINT = "tracepoint"
    """tp_btf (raw tracepoints) and classic tracepoints."""


class Loader(enum.StrEnum):
    """The ways to get a probe's programs into the kernel."""

    CORE = "core"
    """Compiled objects, by libbpf; the kernel must have BTF."""
    BCC = "bcc"
    """The source, compiled by BCC with this machine's kernel headers."""


class Scope(enum.StrEnum):
    """Over what a chart's values are summed."""

    SYSTEM = "system"
    """Over everything: the chart's dimensions are those that it declares."""
    APPS = "apps"
    """By application: the chart declares one dimension, and every group of applications has one like it of its own
    name, then `other` has one (what belongs to no group that is shown) and `overflow` (what found no row)."""
    KEYS = "keys"
    """By the keys of a table that has keys of its own: the chart's dimensions are templates, of which every key that is
    shown has one each (its ID and the template's, joined by `_`), and so has `other`: all else, with what found no
    row. The values are in the order of the keys, `other` last, and of each key in that of the templates."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One line of a chart: the sum of the fields `plus`, less the sum of the fields `minus`.

    A field is one of the probe's counters by its name in C. `negative` asks sinks whose users expect it
    (Netdata's) to draw the values below zero; the values themselves stay as they are.
    """

    id: str
    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()
    negative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """What a histogram's counters stand for. Counter `field[n]` in C counts the values that are at most `bounds[n]` and
    above the bound before, the last one those that are above all bounds; bounds are in `units`, and ascend.

    `sum` is the counter that has the sum of all values, in `sum_units`, if there is one. `dimensions` are a chart's
    that shows it: one a bucket, then `sum`.
    """

    field: str
    bounds: tuple[float, ...]
    units: str
    sum: str = ""
    sum_units: str = ""

    @classmethod
    def log2(cls, field: str, slots: int, first: float, units: str, *, sum: str = "", sum_units: str = "") -> Self:
        """Those of `log2_slot(value, unit, slots)` in the kit: `first` (its unit), twice that and so on."""
        bounds = tuple(first * 2**n for n in range(slots - 1))
        return cls(field=field, bounds=bounds, units=units, sum=sum, sum_units=sum_units or units)

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """One for each bucket, called after its bound, and one of ID `sum` if there is one."""
        names = [*(f"{bound:.15g}" for bound in self.bounds), "+Inf"]
        each = [Dimension(f"le_{name.strip('+')}", name, (f"{self.field}_{n}",)) for n, name in enumerate(names)]
        return (*each, *([Dimension("sum", "sum", (self.sum,))] if self.sum else []))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Dimensions that are looked at together, over the fields of one of the probe's tables: `table`, or its first.

    `return_only` charts exist in load mode `return` alone. A chart of kind LEVEL shows how many of what `plus` counts
    the beginning of have not ended yet, which `minus` counts: see Kind. With `buckets` it is a histogram, and
    `dimensions` are those of the buckets. `key` is what a key is called, such as `disk`, where there are few keys and
    always the same ones: so labels are called in backends that store each combination of labels for ever.
    """

    id: str
    title: str
    units: str
    family: str
    priority: int
    dimensions: tuple[Dimension, ...]
    kind: Kind = Kind.COUNTER
    return_only: bool = False
    scope: Scope = Scope.SYSTEM
    table: str = ""
    buckets: Buckets | None = None
    key: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError where dimensions and buckets do not go together."""
        if self.buckets and (self.dimensions != self.buckets.dimensions or self.kind is not Kind.COUNTER):
            raise ValueError(f"chart '{self.id}': a histogram counts, and has the dimensions of its buckets")


class ProbeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[plugins.NAME]`: what every probe can be told. A probe with settings of its own derives from it."""

    enabled: bool = True
    table_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 16384
    """Rows that one interval can hold; what finds no room is counted as overflow."""


class Keys(Protocol):
    """What the keys of a table mean that has keys of its own. Called on the event loop, in each tick in which there are
    any: never waits."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a row, integers, by which rows are told apart; rows that are alike in them are summed."""

    @property
    def maximum(self) -> int:
        """How many keys have dimensions of their own, the busiest ones."""

    @property
    def other(self) -> str:
        """ID and name of what is not shown."""

    def wanted(self, rows: np.ndarray) -> np.ndarray | None:
        """Which of the rows count at all (bool, one each); None: all."""

    def labels(self, rows: np.ndarray) -> Sequence[tuple[str, str]]:
        """ID and name of each of these rows' keys. Equal keys have equal IDs, always; a name may become better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a probe makes of its settings: its KNOBs by name, what stands in its maps before anything is counted (keys
    and values as the kernel has them), and the meaning of the keys of its tables, by table. `close` is called when the
    probe has ended."""

    knobs: Mapping[str, int] = field(default_factory=dict)
    maps: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict)
    keys: Mapping[str, Keys] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


def _no_setup(settings: ProbeSettings) -> Setup:
    return Setup()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What is to be seen in the kernel, as data.

    `package` is the importable package that holds `objects/MACHINE/OBJECT.bpf.o`, MACHINE as in uname(2).
    The object has tables by process (PROCESS_TABLE in the kit) or by keys of their own (KEYED_TABLE), whose fields the
    charts name. `setup` is called once, at start, with the probe's settings; it raises SettingsError.
    """

    name: str
    package: str
    object: str
    charts: tuple[Chart, ...]
    settings: type[ProbeSettings] = ProbeSettings
    setup: Callable[[Any], Setup] = _no_setup


PROCESS_FIELDS = ("start_ns", "tgid", "exec_id", "cgroup_id", "parent_tgid", "uid", "comm")
"""How the rows of a table by process begin."""


@dataclass(frozen=True, slots=True)
class TableHarvest:
    """What one table counted in an interval.

    `rows` is a structured array, one row for each key that did something, its fields named as in C: the key's first
    (of a table by process start_ns, tgid, exec_id, then cgroup_id, parent_tgid, uid, comm), then the counters, u64.
    `totals` has the same counters over all processes; to the call, it is the sum of the rows plus `overflow`.
    A counter that is an array in C, `__u64 latency[3]`, is as many fields: `latency_0`, `latency_1`, `latency_2`.
    `since_load` is what the totals have come to since the probe was loaded, with this interval.
    """

    rows: np.ndarray
    totals: Mapping[str, int]
    overflow: Mapping[str, int]
    overflow_calls: int
    capacity: int
    since_load: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_by_process(self) -> bool:
        """Whether its rows are processes, and not keys of the probe's own."""
        return (self.rows.dtype.names or ())[: len(PROCESS_FIELDS)] == PROCESS_FIELDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """One interval as the kernel counted it. `missed_runs` is how often it did not run a program where it should have;
    `complete` is false if that is not 0, or if a table could not be read. `begun` is what sources that take over had
    counted until then: of it levels alone are made."""

    time_s: float
    elapsed_s: float
    tables: Mapping[str, TableHarvest]
    swap_ns: int
    drain_ns: int
    missed_runs: int = 0
    complete: bool = True
    begun: tuple[tuple[str, TableHarvest], ...] = ()


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose the rows of a table are: row n belongs to `groups[of_rows[n]]`.

    Of the groups, which may be more than the charts show, the first two are `other` and `overflow`.
    """

    OTHER: ClassVar[int] = 0
    OVERFLOW: ClassVar[int] = 1

    groups: tuple[str, ...]
    of_rows: np.ndarray


class Value(msgspec.Struct, frozen=True):
    """A dimension in one interval. For a counter `delta` is the interval's amount and `total` the amount since
    the start of the daemon; for a level `delta` is the level and `total` is 0."""

    dimension: Dimension
    delta: int | float
    total: int


@dataclass(frozen=True, slots=True)
class ChartValues:
    """A chart in one interval."""

    chart: Chart
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One interval as sinks see it: the charts, and the tables with their rows by process and whose those are.

    `owners` has the same keys as `tables`; it is empty if applications are turned off.
    """

    host: str
    time_s: float
    elapsed_s: float
    complete: bool
    charts: tuple[ChartValues, ...]
    tables: Mapping[str, TableHarvest] = field(default_factory=dict)
    owners: Mapping[str, Owners] = field(default_factory=dict)


class Sink(Protocol):
    """Where snapshots go: an async context manager with one method.

    The core opens it (`async with`), calls `send` for one snapshot after the other, never two at once, and
    closes it. Whatever it raises is counted and logged, and the sink is opened again after a while; the
    queue, the retries and the time limits are the core's.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def send(self, snapshot: Snapshot) -> None:
        """Deliver one snapshot."""


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """One `[[sinks]]`: what every sink can be told. A sink type derives from it with `tag="its type"`."""

    name: str = ""
    """How logs and self metrics call it; by default its type."""
    charts: tuple[str, ...] = ()
    """Which charts it gets: ids, `*` in them, `!` to exclude; an exclusion always wins. By default all."""
    interval: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 0
    """Seconds between its snapshots, a multiple of the harvest's, whose intervals are summed; 0: the harvest's."""
    send_timeout_s: ClassVar[float | None] = 10.0
    """How long one `send` may take before the sink counts as failed. None: as long as it likes."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What opening the sink again takes of capabilities(7), long after the start, such as `net_bind_service`: the
        daemon gives up all others. By default none; root needs none for files of his own."""
        return frozenset()

    def open(self) -> Sink:
        """A new sink with these settings, not yet entered. Raises SettingsError where they cannot work."""
        raise NotImplementedError


def tag_of(settings: SinkSettings | type[SinkSettings]) -> str:
    """The `type = "..."` that selects these settings."""
    return str(settings.__struct_config__.tag)


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as every JSON output of ebpfmon shows it (`ebpfmon/snapshot.schema.json`)."""
    return {
        "schema": 1,
        "host": snapshot.host,
        "time": round(snapshot.time_s, 3),
        "elapsed_s": round(snapshot.elapsed_s, 4),
        "complete": snapshot.complete,
        "charts": [
            {
                "id": c.chart.id,
                "family": c.chart.family,
                "title": c.chart.title,
                "units": c.chart.units,
                "scope": c.chart.scope,
                **_buckets_to_json(c.chart.buckets),
                "dimensions": _values_to_json(c, snapshot.elapsed_s),
            }
            for c in snapshot.charts
        ],
    }


def _buckets_to_json(buckets: Buckets | None) -> dict[str, Any]:
    if not buckets:
        return {}
    sums = {"sum_units": buckets.sum_units} if buckets.sum else {}
    return {"buckets": {"units": buckets.units, "bounds": list(buckets.bounds), **sums}}


def _values_to_json(values: ChartValues, elapsed_s: float) -> list[dict[str, Any]]:
    if values.chart.kind is Kind.LEVEL:
        return [{"id": v.dimension.id, "name": v.dimension.name, "value": v.delta} for v in values.values]
    return [
        {
            "id": v.dimension.id,
            "name": v.dimension.name,
            "delta": v.delta,
            "total": v.total,
            "rate": round(v.delta / elapsed_s, 2) if v.delta else 0.0,
        }
        for v in values.values
    ]
