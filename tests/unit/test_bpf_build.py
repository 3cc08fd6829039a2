"""`ebpfmon bpf build` compiles a third-party source, or reports in one line why it cannot."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from ebpfmon.cli import main as cli
from ebpfmon.kernel import compiler
from ebpfmon.plugins import build
from tests.unit.samples import FILES

SOURCE = """// SPDX-License-Identifier: GPL-2.0-only
#include "ebpfmon.bpf.h"
struct hello_counters {
	__u64 calls;
};
#define TABLE hello
#define TABLE_SIZE 64
#include "process_table.bpf.h"

static __always_inline int on_exec(void)
{
	struct hello_counters *counters = hello_find();

	if (counters)
		count(&counters->calls, 1);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec_tp_btf)
{
	return on_exec();
}

char LICENSE[] SEC("license") = "GPL";
"""
MADE = [f"{machine}/hello.{what}" for machine in ("x86_64", "aarch64") for what in ("bpf.o", "bcc.c")]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "hello.bpf.c"
    path.write_text(SOURCE)
    return path


def test_objects_for_all_architectures_and_bcc_sources_are_written_beside_the_source(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bpf", "build", str(source)]) == 0
    made = [str(source.parent / "objects" / name) for name in MADE]
    assert capsys.readouterr().out.splitlines() == made
    assert [Path(path).read_bytes()[:4] == b"\x7fELF" for path in made] == [True, False] * 2
    assert "hello.bpf.c, preprocessed for BCC" in Path(made[1]).read_text()


def test_objects_are_written_to_the_output_directory(source: Path, tmp_path: Path) -> None:
    assert cli.main(["bpf", "build", str(source), "-o", str(tmp_path / "out")]) == 0
    assert all((tmp_path / "out" / name).is_file() for name in MADE)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hello.c", "its name must be NAME.bpf.c"),
        ("gone.bpf.c", "there is no such file"),
        (".bpf.c", "its name must be NAME.bpf.c"),
    ],
)
def test_a_file_that_is_no_source_ends_with_2(
    tmp_path: Path, name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bpf", "build", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.startswith(f"ebpfmon: cannot compile '{tmp_path / name}': {reason}")


def test_a_failed_compilation_ends_with_1_and_leaves_no_object(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source.write_text(SOURCE.replace("calls", "cals", 1))
    assert cli.main(["bpf", "build", str(source)]) == 1
    err = capfd.readouterr().err
    assert "no member named 'calls'" in err
    assert err.splitlines()[-1] == f"ebpfmon: cannot compile '{source}' for x86_64: clang failed with status 1"
    assert not list(tmp_path.rglob("*.bpf.o"))


def test_without_clang_the_message_names_the_packages(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiler, "subprocess", type("Nothing", (), {"run": staticmethod(missing)}))
    assert cli.main(["bpf", "build", str(source)]) == 1
    assert "clang is missing; apt install clang libbpf-dev linux-libc-dev" in capsys.readouterr().err


def missing(*_: object, **__: object) -> None:
    raise FileNotFoundError


def test_an_output_that_cannot_be_written_is_reported(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source.parent / "objects").touch()
    assert cli.main(["bpf", "build", str(source)]) == 2
    assert "objects" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        (errno.EAGAIN, 1, "cannot start clang; raise the limit of its cgroup (pids.max; in a systemd unit: TasksMax=)"),
        (errno.ENOSPC, 2, "No space left on device; free some space there"),
    ],
)
def test_what_is_short_while_compiling_is_named(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int, status: int, text: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(compiler, "compile_object", fail)
    assert cli.main(["bpf", "build", str(source)]) == status
    assert text in capsys.readouterr().err


def test_the_bpf_headers_are_found() -> None:
    assert {p.name for p in build.headers().glob("*.h")} >= {
        "ebpfmon.bpf.h",
        "process_table.bpf.h",
        "keyed_table.bpf.h",
    }


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".bpf.c")])
def test_the_bcc_sources_of_the_samples_have_no_macros(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    headers = "".join(path.read_text() for path in build.headers().glob("*.h"))
    macros = set(re.findall(r"^#define (\w+)", headers, re.M)) - {"TASK_COMM_LEN"}  # of kernel headers
    for path in build.build([tmp_path / name]):
        if path.name.endswith(".bcc.c"):
            text = path.read_text()
            assert "exec_calls" in text
            assert set(re.findall(r"\w+", text)) & macros == set()
            assert {line.split()[0] for line in text.splitlines() if line.lstrip().startswith("#")} == {"#include"}
