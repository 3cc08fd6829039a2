"""The instructions that the verifier processes for each program, and its stack, compared with verifier.json.

Values are stored for each kernel and compiler, because every clang makes other code of the same source.
Growth by more than a fifth fails. `EBPFMON_RECORD=FILE` writes the measured values, merged with the stored ones.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from ebpfmon import LoadMode
from ebpfmon.errors import AttachError
from ebpfmon.grouping import execs
from ebpfmon.kernel import attach, attach_methods, features
from ebpfmon.kernel.attach import LoadOptions
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.objects import locate
from ebpfmon.plugins import registry

STORED = Path(__file__).with_name("verifier.json")
KERNEL = ".".join(os.uname().release.split(".")[:2])
_STATISTICS = 4  # BPF_LOG_STATS

_CLANG = re.compile(rb"clang version (\d+)")  # in the section .comment of an object

Measured = dict[str, dict[str, int]]  # OBJECT/PROGRAM: {insns, stack}


def measure(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Load all probes with every attach method, and return the verifier's statistics of each program."""
    measured: Measured = {}
    libbpf = Libbpf()
    set_level, set_buffer = libbpf.lib.bpf_program__set_log_level, libbpf.lib.bpf_program__set_log_buf
    set_level.argtypes = ctypes.c_void_p, ctypes.c_uint32
    set_buffer.argtypes = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    original_load = BpfObject.load

    def load(self: BpfObject, programs: Iterable[str]) -> None:
        names = list(programs)
        logs = {name: ctypes.create_string_buffer(1 << 16) for name in names}
        for name, log in logs.items():
            set_level(self.programs[name], _STATISTICS)
            set_buffer(self.programs[name], log, len(log))
        original_load(self, names)
        for name, log in logs.items():
            text = log.value.decode()
            insns, stack = re.search(r"processed (\d+) insns", text), re.search(r"stack depth ([\d+]+)", text)
            assert insns, text
            assert stack, text
            program = f"{self.path.name.removesuffix('.bpf.o')}/{name}"
            measured[program] = {"insns": int(insns[1]), "stack": max(map(int, stack[1].split("+")))}

    monkeypatch.setattr(BpfObject, "load", load)
    for probe in (*registry.discover().probes.values(), execs.PROBE):
        # Only kprobes have separate programs for load mode "entry".
        for method, mode in (
            *((m, LoadMode.RETURN) for m in (None, *attach_methods.NAMES)),
            ("kprobe", LoadMode.ENTRY),
        ):
            options = LoadOptions(attach_method=method, mode=mode)
            try:
                attach.load(probe, libbpf, features.detect(), options).close()
            except AttachError:
                assert method  # The kernel lacks the method. test_attach_methods.py checks that.
    return measured


def compiler() -> str:
    """Return the clang that compiled the objects, for example "clang 14"."""
    path = locate(execs.PROBE)
    found = _CLANG.search(path.read_bytes())
    assert found, f"'{path}' does not name its compiler"
    return f"clang {found[1].decode()}"


def test_no_program_grew_by_more_than_a_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: dict[str, Measured] = json.loads(STORED.read_text())
    measured = measure(monkeypatch)
    assert measured
    conditions = f"{KERNEL}, {compiler()}"
    if record := os.environ.get("EBPFMON_RECORD"):
        stored[conditions] = dict(sorted(measured.items()))
        Path(record).write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
    if conditions not in stored:
        pytest.skip(f"nothing is stored for kernel {conditions}")
    budget = stored[conditions]
    unknown = sorted(measured.keys() - budget.keys())
    assert not unknown, f"not stored for kernel {conditions}: {unknown}: run it with EBPFMON_RECORD={STORED}"
    for program, values in measured.items():
        for what, allowed in budget[program].items():
            assert values[what] <= 1.2 * allowed, f"{program}: {what} {values[what]}, stored {allowed}"
