"""A program that the verifier rejects is named with the reason and the source line, and its whole log can be kept."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from ebpfmon.cli import main as cli
from ebpfmon.errors import LoadError
from ebpfmon.kernel.bpfobject import VERIFIER, WHOLE_LOG, raise_load_error

OBJECT = Path("/x/naps.bpf.o")
STATISTICS = "processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0"
NEW = f"""libbpf: prog 'nap': BPF program load failed: Permission denied
libbpf: prog 'nap': -- BEGIN PROG LOAD LOG --
0: R1=ctx() R10=fp0
; int BPF_PROG(nap) @ naps.bpf.c:22
0: (b7) r1 = 4660                     ; R1=4660
; return *(volatile int *)0x1234; @ naps.bpf.c:14
1: (61) r1 = *(u32 *)(r1 +0)
R1 invalid mem access 'scalar'
{STATISTICS}
-- END PROG LOAD LOG --
libbpf: prog 'nap': failed to load: -13
libbpf: failed to load object '/x/naps.bpf.o'
"""
BEFORE_6_9 = NEW.replace(" @ naps.bpf.c:14", "").replace(" @ naps.bpf.c:22", "")
WITHOUT_TEXT = BEFORE_6_9.replace("; return *(volatile int *)0x1234;", "; ")
BCC = f"0: (b7) r1 = 4660\n1: (61) r1 = *(u32 *)(r1 +0)\nR1 invalid mem access 'inv'\n{STATISTICS}\n"
EMPTY = "libbpf: prog 'nap': -- BEGIN PROG LOAD LOG --\n-- END PROG LOAD LOG --\n"
REFUSED = (
    "libbpf: prog 'nap': BPF program load failed: Operation not permitted\nlibbpf: prog 'nap': failed to load: -1\n"
)
NO_TYPE = "libbpf: prog 'nap': failed to find kernel BTF type ID of 'naps': -3\nlibbpf: failed to load object 'x'\n"


def error_of(messages: str, code: int = errno.EACCES, name: str | None = "nap") -> LoadError:
    with pytest.raises(LoadError) as caught:
        raise_load_error(OBJECT, name, code, messages)
    return caught.value


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (NEW, "the verifier rejects 'nap' at naps.bpf.c:14: R1 invalid mem access 'scalar'"),
        (BEFORE_6_9, "the verifier rejects 'nap' at 'return *(volatile int *)0x1234;': R1 invalid mem access 'scalar'"),
        (BCC, "the verifier rejects 'nap': R1 invalid mem access 'inv'"),
        (EMPTY, "the verifier rejects 'nap': Permission denied"),
        ("x\n" * 99_999 + NEW, "the verifier rejects 'nap' at naps.bpf.c:14: R1 invalid mem access 'scalar'"),
    ],
    ids=["since 6.9", "before 6.9", "bcc", "empty", "long"],
)
def test_a_rejection_names_the_program_the_line_and_the_reason(messages: str, reason: str) -> None:
    error = error_of(messages)
    assert (error.program, error.errno, error.reason) == ("nap", errno.EACCES, reason)
    assert str(error) == f"cannot load 'nap' of 'naps.bpf.o': {reason}{WHOLE_LOG}"


def test_a_line_without_text_is_left_out_and_an_earlier_one_is_not_taken_for_it() -> None:
    assert error_of(WITHOUT_TEXT).reason == "the verifier rejects 'nap': R1 invalid mem access 'scalar'"


@pytest.mark.parametrize(
    ("messages", "code", "name", "text"),
    [
        (REFUSED, errno.EPERM, "nap", "cannot load 'nap' of 'naps.bpf.o': not permitted by the kernel"),
        (REFUSED, errno.EPERM, None, "cannot load 'naps.bpf.o': not permitted by the kernel; run as root"),
        (NO_TYPE, errno.ESRCH, "nap",
         "cannot load 'nap' of 'naps.bpf.o': prog 'nap': failed to find kernel BTF type ID of 'naps': -3"),
        ("", errno.EINVAL, None, "cannot load 'naps.bpf.o': Invalid argument"),
        (NEW, errno.ENOMEM, "nap", "cannot load 'nap' of 'naps.bpf.o': Cannot allocate memory; "),
    ],
)  # fmt: skip
def test_if_the_verifier_did_not_run_it_is_not_mentioned(
    messages: str, code: int, name: str | None, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, VERIFIER):
        error = error_of(messages, code, name)
    assert str(error).startswith(text)
    assert "verifier" not in str(error)
    assert caplog.messages == []


def test_the_whole_log_is_kept_only_if_it_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    error_of(NEW)
    assert caplog.messages == []
    logger = logging.getLogger(VERIFIER)
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr("ebpfmon.cli.check._check", lambda _: bool(error_of(NEW)))
    file = tmp_path / "log"
    try:
        assert cli.main(["check", "--verifier-log", str(file)]) == 1
    finally:
        logger.setLevel(logging.NOTSET)
        for handler in logger.handlers:
            handler.close()
    assert file.read_text() == f"cannot load 'nap' of 'naps.bpf.o':\n{NEW}\n"
    assert caplog.messages == []


@pytest.mark.parametrize("command", ["run", "check", "top"])
@pytest.mark.parametrize("is_read", [True, False], ids=["with a reader", "without a reader"])
def test_a_named_pipe_is_refused_as_a_log_file_and_never_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, is_read: bool
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if is_read else -1
    try:
        assert cli.main([command, "--verifier-log", str(pipe)]) == 2
    finally:
        if is_read:
            os.close(reader)
    assert capsys.readouterr().err == f"ebpfmon: --verifier-log: cannot write '{pipe}': not a regular file\n"


def test_a_log_file_that_cannot_be_written_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--verifier-log", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"ebpfmon: --verifier-log: cannot write '{tmp_path}': Is a directory\n"


def test_without_room_for_the_types_of_the_kernel_the_limit_of_the_address_space_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden = "libbpf: Error loading vmlinux BTF: -3\nlibbpf: failed to load object '/x/naps.bpf.o'\n"
    assert str(error_of(hidden, errno.ESRCH, None)) == "cannot load 'naps.bpf.o': Error loading vmlinux BTF: -3"
    monkeypatch.setattr("ebpfmon.shortage.address_space", lambda: "; this process may have only 9 MB")
    error = error_of(hidden, errno.ESRCH, None)
    assert str(error) == "cannot load 'naps.bpf.o': Error loading vmlinux BTF: -3; this process may have only 9 MB"
    assert error.reason == "Error loading vmlinux BTF: -3"
