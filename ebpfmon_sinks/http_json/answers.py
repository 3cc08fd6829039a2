"""Define the JSON of all answers, and the parameters of all requests. The OpenAPI document is made from these types."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ebpfmon import ChartJson

_Name = Annotated[str, Meta(min_length=1, max_length=256)]


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every answer has."""

    schema: Literal[2] = 2


class ProblemJson(Answer, frozen=True, kw_only=True):
    """An error."""

    status: int
    error: str


class HealthJson(Answer, frozen=True, kw_only=True):
    """Whether the daemon works."""

    status: str


class IntervalJson(Answer, frozen=True, kw_only=True):
    """What every answer about the newest interval has."""

    host: str
    time: Annotated[float, Meta(description="The end of the interval, in seconds since the epoch.")]
    elapsed_s: Annotated[float, Meta(description="The length of the interval, in seconds.")]
    complete: Annotated[bool, Meta(description="Whether everything could be read.")]


class OneChartJson(IntervalJson, frozen=True, kw_only=True):
    """One chart with its series."""

    chart: ChartJson


class DeclaredDimensionJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dimension as its probe declares it: the sum of the counters `plus`, less those of `minus`."""

    id: str
    name: str
    plus: list[str]
    minus: list[str]
    negative: Annotated[bool, Meta(description="Whether it is drawn below zero.")]


class DeclaredChartJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chart as its probe declares it. `bounds`, `bucket_units` and `sum_units` are a histogram's."""

    id: str
    family: str
    title: str
    units: str
    kind: Annotated[str, Meta(description="What its numbers are, as in a snapshot.")]
    labels: list[str]
    priority: int
    unbounded: Annotated[bool, Meta(description="Whether its label values have no limit over time.")]
    dimensions: list[DeclaredDimensionJson]
    bounds: list[float] | UnsetType = UNSET
    bucket_units: str | UnsetType = UNSET
    sum_units: str | UnsetType = UNSET


class ChartsJson(Answer, frozen=True, kw_only=True):
    """All charts as they are declared."""

    host: str
    charts: list[DeclaredChartJson]


class ColumnJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number that rows have, as their probe declares it."""

    id: str
    name: str
    units: str


_Amounts = Annotated[dict[str, int], Meta(description="The interval's amounts by column, without zeros.")]
_Rates = Annotated[dict[str, float], Meta(description="The amounts per second.")]
_Groups = Annotated[
    dict[str, str | None],
    Meta(description="The process's group by grouping: null if it belongs to none."),
]


class RowsJson(IntervalJson, frozen=True, kw_only=True):
    """What every list of rows has."""

    found: Annotated[int, Meta(description="How many rows there are. The busiest are listed.")]
    overflow_calls: Annotated[int, Meta(description="Calls that found no row in the kernel's tables.")]
    columns: list[ColumnJson]


class ProcessJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one process did in the interval."""

    tgid: int
    start_ns: Annotated[int, Meta(description="When it started, in nanoseconds since boot.")]
    exec_id: int
    parent_tgid: int
    uid: int
    cgroup_id: int
    comm: str
    groups: _Groups
    amounts: _Amounts
    rates: _Rates


class ProcessesJson(RowsJson, frozen=True, kw_only=True):
    """The busiest processes, the busiest first."""

    processes: list[ProcessJson]


class ConnectionJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one process exchanged with one destination in the interval."""

    table: Annotated[str, Meta(description="The table that the row is from.")]
    tgid: int
    start_ns: int
    exec_id: int
    comm: str | None
    groups: _Groups
    labels: Annotated[dict[str, str], Meta(description="What tells the connections of a process apart.")]
    amounts: _Amounts
    rates: _Rates


class ConnectionsJson(RowsJson, frozen=True, kw_only=True):
    """The busiest connections, the busiest first."""

    connections: list[ConnectionJson]


_Sort = Annotated[_Name, Meta(description="Sort by a column, or by the sum of all columns in calls or bytes.")]
_Top = Annotated[int, Meta(ge=1, le=1000, description="How many at most.")]


class ConnectionsQuery(msgspec.Struct, frozen=True):
    """The parameters of /api/v1/connections."""

    sort: _Sort = "calls"
    top: _Top = 50


class ProcessesQuery(msgspec.Struct, frozen=True):
    """The parameters of /api/v1/processes."""

    sort: _Sort = "calls"
    top: _Top = 50
    group: Annotated[_Name, Meta(description="List only the processes of the group of this name.")] = ""
    by: Annotated[_Name, Meta(description="The grouping that the group is of; by default the first one.")] = ""


class StreamQuery(msgspec.Struct, frozen=True):
    """The parameters of /api/v1/stream."""

    format: Annotated[
        Literal["auto", "sse", "ndjson"], Meta(description="The format. By default it is what Accept prefers.")
    ] = "auto"
