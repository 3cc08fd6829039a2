"""The rodata settings and table sizes that are set before the load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ebpfmon.errors import ObjectError
from tests.unit.fakes import SPEC, FakeObject, FakeSymbols
from tests.unit.test_plan import NO_KPROBES, PREEMPTS_TRAMPOLINES, plan_of, try_load


def test_an_object_compiled_with_other_headers_is_refused_with_the_remedy() -> None:
    older = replace(SPEC, settings={name: at for name, at in SPEC.settings.items() if name != "cfg_cache"})
    with pytest.raises(
        ObjectError, match=r"^probe 'p': its object was compiled with other BPF headers than this ebpfmon's; compile it"
    ):
        try_load(plan_of(spec=older))


def test_per_cpu_caches_are_used_if_no_chosen_program_can_be_preempted() -> None:
    cache = SPEC.settings["cfg_cache"][0]
    for kernel, symbols, expected in (
        (NO_KPROBES, FakeSymbols(), True),
        (PREEMPTS_TRAMPOLINES, FakeSymbols({"f2": 3, "e": 1}), True),  # by kprobes and tracepoints
        (replace(PREEMPTS_TRAMPOLINES, kprobes=False), FakeSymbols({"f2": 3}, tracepoints=("t",)), False),
    ):
        obj = FakeObject()
        assert try_load(plan_of(kernel, symbols), obj)
        assert bool(obj.data[cache]) is expected, (kernel, obj.attached)


@pytest.mark.parametrize("rows", [True, False])
def test_settings_and_table_sizes_are_set_before_the_load(rows: bool) -> None:
    plan, obj = plan_of(NO_KPROBES, FakeSymbols({})), FakeObject()
    obj.data[:] = [0xFF] * 17
    assert try_load(plan, obj, table_size=99, rows=rows)
    assert bytes(obj.data) == bytes([rows, 0, 0, 0, 0, 0, 0, 0, 1, *[0xFF] * 5, 1, rows, 0])
    of_process = 99 if rows else 1
    assert obj.sizes == {"p_rows_0": of_process, "p_rows_1": of_process, "k_rows_0": 99, "k_rows_1": 99}
