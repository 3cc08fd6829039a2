"""BCC as a compiler: its request, its failures, and how descriptors and values are filled in."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from ebpfmon.errors import KernelError
from ebpfmon.kernel import bcc, bcc_compile, host
from ebpfmon.kernel.bpfobject import BpfObject

LD_IMM64, EXIT = 0x18, 0x95
RELEASE = os.uname().release


def instruction(operation: int, target: int = 0, source: int = 0, offset: int = 0, number: int = 0) -> bytes:
    return struct.pack("<BBhi", operation, source << 4 | target, offset, number)


def load(target: int, source: int, number: int) -> bytes:
    """Return ld_imm64, which takes the room of two instructions."""
    return instruction(LD_IMM64, target, source, 0, number) + instruction(0)


def test_numbers_of_maps_become_descriptors_and_numbers_of_settings_become_values() -> None:
    code = load(1, 1, 2) + load(2, 15, 0) + load(3, 15, 1) + load(4, 1, 0) + instruction(EXIT)
    filled = bcc._fill_in(code, [70, 71, 72], [7, 0])
    assert filled == load(1, 1, 72) + load(2, 0, 7) + load(3, 0, 0) + load(4, 1, 70) + instruction(EXIT)


@pytest.mark.parametrize(
    "code",
    [
        b"",
        instruction(EXIT),
        load(1, 0, 0),
        load(1, 4, 3),
        instruction(0x85, 0, 1, 0, 14),
        instruction(0xB7, 1, 15, 0, 0),
        instruction(0x7B, 10, 1, -8, 0),
        instruction(LD_IMM64, 1, 0, 0, -1) + instruction(0, 0, 1, 0, -1),
    ],
    ids=["nothing", "exit", "a constant", "a function", "a call", "a move", "a store", "64 bits"],
)
def test_other_instructions_are_unchanged(code: bytes) -> None:
    assert bcc._fill_in(code, [70], [7]) == code


class Answers:
    """A subprocess.run() that has, for each Python, an exit status, stdout and stderr."""

    def __init__(self, **by_python: tuple[int, str, str]) -> None:
        self.by_python = by_python
        self.requests: list[tuple[list[str], dict[str, Any]]] = []

    def __call__(self, command: list[str], *, input: str, **_: object) -> SimpleNamespace:
        self.requests.append((command, json.loads(input)))
        status, out, err = self.by_python["system" if command[0] == "/usr/bin/python3" else "own"]
        return SimpleNamespace(returncode=status, stdout=out, stderr=err)


@pytest.fixture
def obj(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BpfObject:
    """An opened object with its BCC source beside it, on a machine with kernel headers."""
    (tmp_path / "p.bcc.c").write_text("int f() { return 0; }")
    monkeypatch.setattr(host, "header_paths", lambda release: (f"/no/{release}", str(tmp_path)))
    monkeypatch.setattr(bcc, "_settings_of", lambda obj: {"cfg_rows": (0, 4), "cfg_return": (4, 4)})
    maps = {"p_totals": 1, "p_rows": 2, "p.rodata": 3, "ebpfmon_interval": 4}
    sections = {"f": "kprobe/f", "g": "tp_btf/g", "h": "fexit/h", "i": "tp/system/i"}
    opened = SimpleNamespace(path=tmp_path / "p.bpf.o", programs=sections, maps=maps, section=sections.__getitem__)
    return cast(BpfObject, opened)


def answer(monkeypatch: pytest.MonkeyPatch, **by_python: tuple[int, str, str]) -> Answers:
    answers = Answers(**by_python)
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    monkeypatch.setattr(subprocess, "run", answers)
    return answers


CODE = {"f": b"\x95" + bytes(7), "ebpfmon_self_check": bytes(8)}
COMPILED = json.dumps({name: base64.b64encode(code).decode() for name, code in CODE.items()})
NONE = (bcc_compile.NO_BCC, "", "")


def test_the_source_beside_the_object_is_compiled_with_numbers_for_maps_and_settings(
    obj: BpfObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = answer(monkeypatch, own=(0, COMPILED, ""))
    assert bcc.compile_source(obj) == CODE
    ((command, request),) = answers.requests
    assert command == ["/venv/bin/python", "-I", bcc_compile.__file__]
    assert request == {
        "text": "int f() { return 0; }",
        "flags": [
            "-DMAP_ebpfmon_interval=0", "-DMAP_p_rows=1", "-DMAP_p_totals=2", "-DMAP_ebpfmon_self_check=3",
            "-Dcfg_rows=bpf_pseudo_fd(15,0)", "-Dcfg_return=bpf_pseudo_fd(15,1)",
        ],
        "programs": ["f", "g", "ebpfmon_self_check"],
    }  # fmt: skip


def test_programs_without_the_self_check_are_refused(obj: BpfObject, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, own=(0, "{}", ""))
    with pytest.raises(KernelError, match="it returned no programs"):
        bcc.compile_source(obj)


def test_the_systems_python_is_used_if_this_one_has_no_bcc(obj: BpfObject, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = answer(monkeypatch, own=NONE, system=(0, COMPILED, ""))
    assert bcc.compile_source(obj) == CODE
    assert [command[0] for command, _ in answers.requests] == ["/venv/bin/python", "/usr/bin/python3"]


@pytest.mark.parametrize(
    ("own", "system", "reason"),
    [
        (NONE, NONE, "BCC is missing; apt install python3-bpfcc ('bcc' on PyPI is an unrelated package)"),
        ((1, "", "warned\nmain.c:3:5: error: no member\n1 error generated.\nFailed"), NONE,
         "main.c:3:5: error: no member"),
        (NONE, (1, "", "\nFailed to compile BPF module\n"), "Failed to compile BPF module"),
        ((-9, "", ""), NONE, "it printed no error message"),
    ],
    ids=["no BCC", "an error", "the last line", "killed"],
)  # fmt: skip
def test_a_failure_is_reported_in_one_line(
    obj: BpfObject,
    monkeypatch: pytest.MonkeyPatch,
    own: tuple[int, str, str],
    system: tuple[int, str, str],
    reason: str,
) -> None:
    answer(monkeypatch, own=own, system=system)
    with pytest.raises(KernelError) as caught:
        bcc.compile_source(obj)
    assert str(caught.value) == f"cannot compile 'p.bcc.c' with BCC: {reason}"


def test_missing_kernel_headers_are_reported_with_the_package(obj: BpfObject, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = answer(monkeypatch)
    monkeypatch.setattr(host, "header_paths", lambda release: (f"/no/{release}",))
    with pytest.raises(KernelError) as caught:
        bcc.compile_source(obj)
    assert str(caught.value) == (
        f"cannot compile 'p.bcc.c' with BCC: the headers of kernel {RELEASE} are missing; "
        f"apt install linux-headers-{RELEASE} "
        f"(Fedora, RHEL: dnf install kernel-devel-{RELEASE})"
    )
    assert not answers.requests


class FakeBpf:
    """bcc.BPF for a source with the program `f`."""

    def __init__(self, text: str, cflags: list[str]) -> None:
        if "#error" in text:
            raise Exception(f"Failed to compile, with {cflags[-1]}")

    def dump_func(self, name: bytes) -> bytes:
        if name != b"f":
            raise Exception("Unknown program")
        return b"code"


def compile_with(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType | None, text: str, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run the compiler and return its exit status, stdout and stderr."""
    request = json.dumps({"text": text, "flags": ["-DX=1"], "programs": ["f", "g"]})
    monkeypatch.setitem(sys.modules, "bcc", module)
    monkeypatch.setattr(sys, "stdin", io.StringIO(request))
    return (bcc_compile.main(), *capsys.readouterr())


@pytest.fixture
def module() -> ModuleType:
    module = ModuleType("bcc")
    module.BPF = FakeBpf  # type: ignore[attr-defined]
    return module


def test_the_compiler_returns_the_programs_that_the_source_has(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = compile_with(monkeypatch, module, "int f;", capsys)
    assert (status, err) == (0, "")
    assert json.loads(out) == {"f": base64.b64encode(b"code").decode()}


def test_a_failed_compilation_ends_with_1_and_the_message_of_bcc(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compile_with(monkeypatch, module, "#error", capsys)
    assert result == (1, "", "Failed to compile, with -DX=1\n")


@pytest.mark.parametrize("found", [None, ModuleType("bcc")], ids=["none", "PyPI's"])
def test_a_python_without_bcc_has_its_own_exit_status(
    monkeypatch: pytest.MonkeyPatch, found: ModuleType | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compile_with(monkeypatch, found, "", capsys) == (bcc_compile.NO_BCC, "", "")
