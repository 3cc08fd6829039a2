"""The JSON of all responses and the parameters of all requests. The OpenAPI document is generated from these types."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ebpfmon import ChartJson

_Name = Annotated[str, Meta(min_length=1, max_length=256)]


class ResponseJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of every response."""

    schema: Literal[2] = 2


class ProblemJson(ResponseJson, frozen=True, kw_only=True):
    """An error."""

    status: int
    error: str


class HealthJson(ResponseJson, frozen=True, kw_only=True):
    """Whether the daemon works."""

    status: str


class IntervalJson(ResponseJson, frozen=True, kw_only=True):
    """The fields of every response about the newest interval."""

    host: str
    time: Annotated[float, Meta(description="The end of the interval, in seconds since the epoch.")]
    elapsed_s: Annotated[float, Meta(description="The length of the interval, in seconds.")]
    complete: Annotated[bool, Meta(description="Whether all counts could be read.")]


class OneChartJson(IntervalJson, frozen=True, kw_only=True):
    """One chart with its series."""

    chart: ChartJson


class DeclaredDimensionJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dimension as its probe declares it: the sum of the counters in `plus` minus those in `minus`."""

    id: str
    name: str
    plus: list[str]
    minus: list[str]
    negative: Annotated[bool, Meta(description="Whether it is drawn below zero.")]


class DeclaredChartJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chart as its probe declares it. Only histograms have `bounds`, `bucket_units` and `sum_units`."""

    id: str
    family: str
    title: str
    units: str
    kind: Annotated[str, Meta(description="The kind of chart, as in a snapshot.")]
    labels: list[str]
    priority: int
    unbounded: Annotated[bool, Meta(description="Whether the number of its label values grows without limit.")]
    dimensions: list[DeclaredDimensionJson]
    bounds: list[float] | UnsetType = UNSET
    bucket_units: str | UnsetType = UNSET
    sum_units: str | UnsetType = UNSET


class ChartsJson(ResponseJson, frozen=True, kw_only=True):
    """All charts as their probes declare them."""

    host: str
    charts: list[DeclaredChartJson]


class ColumnJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column of rows, as a probe declares it."""

    id: str
    name: str
    units: str


_Amounts = Annotated[dict[str, int], Meta(description="The interval's amounts by column, without zeros.")]
_Rates = Annotated[dict[str, float], Meta(description="The amounts per second.")]
_Groups = Annotated[
    dict[str, str | None],
    Meta(description="The process's group in each grouping, or null if it belongs to none."),
]


class RowsJson(IntervalJson, frozen=True, kw_only=True):
    """The fields of every list of rows."""

    found: Annotated[int, Meta(description="How many rows there are in total. Only the busiest are listed.")]
    overflow_calls: Annotated[int, Meta(description="Calls for which the kernel's tables had no room.")]
    columns: list[ColumnJson]


class ProcessJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The activity of one process in the interval."""

    tgid: int
    start_ns: Annotated[int, Meta(description="When the process started, in nanoseconds since boot.")]
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
    """The traffic of one process with one destination in the interval."""

    table: Annotated[str, Meta(description="The table of the row.")]
    tgid: int
    start_ns: int
    exec_id: int
    comm: str | None
    groups: _Groups
    labels: Annotated[
        dict[str, str], Meta(description="The labels that identify the connection among those of the process.")
    ]
    amounts: _Amounts
    rates: _Rates


class ConnectionsJson(RowsJson, frozen=True, kw_only=True):
    """The busiest connections, the busiest first."""

    connections: list[ConnectionJson]


_Sort = Annotated[_Name, Meta(description="Sort by a column, or by the sum of all columns in calls or bytes.")]
_Top = Annotated[int, Meta(ge=1, le=1000, description="The greatest number of rows to list.")]


class ConnectionsQuery(msgspec.Struct, frozen=True):
    """The parameters of /api/v1/connections."""

    sort: _Sort = "calls"
    top: _Top = 50


class ProcessesQuery(msgspec.Struct, frozen=True):
    """The parameters of /api/v1/processes."""

    sort: _Sort = "calls"
    top: _Top = 50
    group: Annotated[_Name, Meta(description="List only the processes of this group.")] = ""
    by: Annotated[_Name, Meta(description="The grouping of the group. By default it is the first one.")] = ""


class StreamQuery(msgspec.Struct, frozen=True):
    """The parameters of /api/v1/stream."""

    format: Annotated[
        Literal["auto", "sse", "ndjson"], Meta(description="The format. By default it is what Accept prefers.")
    ] = "auto"
