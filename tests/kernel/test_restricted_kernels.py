"""Restricted kernels and users. Most of these tests run only in the matrix (tests/vm), which sets up such kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ebpfmon import LoadMode
from ebpfmon.errors import AttachError, KernelError, LoadError
from ebpfmon.kernel import attach, bcc, features
from ebpfmon.kernel.attach import LoadOptions
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.objects import locate
from ebpfmon.model import Loader
from ebpfmon.plugins import registry
from tests.kernel.network import assert_counted_exactly
from tests.kernel.support import (
    PLAN,
    Monitor,
    assert_counts,
    expected_counts,
    remove_memlock_limit,
    require_open_tree,
    run_workload,
)

FOUND = features.detect()
btf_hidden = pytest.mark.skipif(FOUND.btf, reason="this kernel has BTF")
locked_down = pytest.mark.skipif(FOUND.lockdown != "confidentiality", reason="this kernel is not locked down")


def assert_exact_counts(workload: Path, tmp_path: Path, attach: str, mode: LoadMode = LoadMode.RETURN) -> None:
    with Monitor({"ebpfmon": {"load_mode": mode, "attach": attach}}) as monitor:
        tgid = run_workload(workload, tmp_path, PLAN)
        monitor.until_gone(lambda: np.array([tgid]), 38)
    assert_counts(monitor.of(tgid), expected_counts(PLAN, mode=mode))


def load(method: str | None = None, loader: Loader | None = None) -> attach.LoadedProbe:
    options = LoadOptions(attach_method=method, loader=loader, mode=LoadMode.RETURN)
    return attach.load(registry.discover().probes["process"], Libbpf(), FOUND, options)


@pytest.fixture(scope="module")
def compiled_once() -> Iterator[None]:
    """Compile with BCC only once. The result is the same in all tests, and takes half a minute in an emulator."""
    with pytest.MonkeyPatch.context() as patch:
        results: dict[Path, dict[str, bytes]] = {}

        def compile_source(obj: BpfObject) -> dict[str, bytes]:
            if obj.path not in results:
                results[obj.path] = bcc.compile_source(obj)
            return results[obj.path]

        patch.setattr(attach, "compile_source", compile_source)
        yield


@btf_hidden
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", LoadMode)
@pytest.mark.parametrize("attach", ["kprobe", "tracepoint"])
@pytest.mark.usefixtures("compiled_once")
def test_with_btf_hidden_bcc_counts_exactly(workload: Path, tmp_path: Path, attach: str, mode: LoadMode) -> None:
    assert_exact_counts(workload, tmp_path, attach, mode)


@btf_hidden
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("compiled_once")
def test_with_btf_hidden_bcc_counts_traffic_exactly(traffic: Path) -> None:
    assert_counted_exactly(traffic, {}, LoadMode.RETURN)


@btf_hidden
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("compiled_once")
def test_with_btf_hidden_the_loader_is_bcc_and_covers_every_event_but_io_uring() -> None:
    with load() as probe:
        assert probe.loader is Loader.BCC
        assert {choice.event for choice in probe.choices if not choice.chosen} == {"io_uring"}


@btf_hidden
@pytest.mark.timeout(400)
def test_with_btf_hidden_headers_of_another_kernel_are_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = locate(registry.discover().probes["process"])
    shutil.copytree(compiled.parent, tmp_path / "objects")
    source = tmp_path / "objects" / "process.bcc.c"
    # Read another field, as with headers that have it at another offset.
    source.write_text(source.read_text().replace("(*(task)), tgid)", "(*(task)), start_boottime)"))
    monkeypatch.setattr(attach, "locate", lambda probe: tmp_path / "objects" / compiled.name)
    with pytest.raises(LoadError, match=r"the kernel headers do not belong to kernel .* tasks are wrong: tgid"):
        load()


@btf_hidden
def test_with_btf_hidden_the_core_loader_says_what_is_missing() -> None:
    with pytest.raises(KernelError, match=r"has no BTF \(/sys/kernel/btf/vmlinux\); set loader = \"bcc\""):
        load(loader=Loader.CORE)


@locked_down
@pytest.mark.parametrize("mode", LoadMode)
def test_under_lockdown_every_call_is_counted_exactly(workload: Path, tmp_path: Path, mode: LoadMode) -> None:
    assert_exact_counts(workload, tmp_path, "auto", mode)


@locked_down
def test_under_lockdown_traffic_is_counted_exactly_by_process(traffic: Path) -> None:
    assert_counted_exactly(traffic, {}, LoadMode.RETURN, peers_are_known=False)


@locked_down
def test_under_lockdown_kprobes_are_refused_and_the_error_says_so() -> None:
    with pytest.raises(AttachError, match="lockdown: confidentiality"):
        load("kprobe")


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_with_only_the_capabilities_bpf_and_perfmon_every_call_is_counted_exactly(user: str) -> None:
    limited = ["setpriv", f"--reuid={user}", "--clear-groups", "--bounding-set=-all,+bpf,+perfmon",
               "--inh-caps=-all,+bpf,+perfmon"]  # fmt: skip
    if user != "root":
        require_open_tree(user)
        limited += ["--regid=nogroup", "--ambient-caps=+bpf,+perfmon"]
    test = "tests/kernel/test_process_exact.py::test_a_process_is_counted_exactly"
    inner = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test, "-k", "auto", "-q"]
    # A folder of its own, because cleaning up files of other users takes more capabilities.
    with tempfile.TemporaryDirectory() as own:
        shutil.chown(own, user)
        environment = {**os.environ, "PYTEST_DEBUG_TEMPROOT": own}
        done = subprocess.run(
            [*limited, *inner], capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment,
            preexec_fn=remove_memlock_limit,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
