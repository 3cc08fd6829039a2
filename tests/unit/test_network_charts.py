"""The charts of the network viewer use the counters in its compiled objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebpfmon import PROCESS_FIELDS, LabelSource
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.objects import ARCHITECTURES
from ebpfmon_network_viewer.charts import CHARTS
from ebpfmon_network_viewer.destinations import Inbound, Outbound
from ebpfmon_network_viewer.selectors import Hostnames
from tests.unit.test_btf import elf_section, id_of

OBJECTS = Path(__file__).parents[2] / "plugins/ebpfmon_network_viewer/objects"
LABELS: dict[str, LabelSource] = {
    "outbound": Outbound(1, None, None, Hostnames.parse("*")),
    "inbound": Inbound(1, None),
}


def types_of(machine: str) -> Btf:
    return Btf(elf_section(OBJECTS / machine / "network_viewer.bpf.o", b".BTF"))


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_charts_use_exactly_the_counters_of_their_tables(machine: str) -> None:
    types = types_of(machine)
    shown: dict[str, set[str]] = {}
    for chart in CHARTS:
        shown.setdefault(chart.table, set()).update(f for d in chart.dimensions for f in (*d.plus, *d.minus))
    counted = {stem: types.dtype(id_of(types, f"{stem}_counters")).names or () for stem in shown}
    # Netdata has no chart of retransmits by local port.
    counted["inbound"] = tuple(n for n in counted["inbound"] if n != "retransmits")
    assert shown == {stem: set(names) for stem, names in counted.items()}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_label_fields_are_the_key_without_the_process(machine: str) -> None:
    types = types_of(machine)
    for stem, labels in LABELS.items():
        assert types.dtype(id_of(types, f"{stem}_key")).names == (*PROCESS_FIELDS[:3], *labels.fields)


def test_charts_of_keyed_tables_have_labels_and_ids_and_priorities_are_unique() -> None:
    assert {c.table: c.labels for c in CHARTS if c.labels} == {table: source.labels for table, source in LABELS.items()}
    assert {c.table for c in CHARTS if not c.labels} == {"network"}
    assert all(c.unbounded is bool(c.labels) for c in CHARTS)
    assert len({c.id for c in CHARTS}) == len({c.priority for c in CHARTS}) == len(CHARTS)
    assert all(c.return_only == c.id.endswith("_error") for c in CHARTS)
