"""Each attach method works on every kernel that should allow it. These tests never skip."""

from __future__ import annotations

import pytest

from ebpfmon import LoadMode
from ebpfmon.errors import AttachError
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import LoadOptions
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.plan import Choice
from ebpfmon.plugins import registry


def choices(method: str | None, mode: LoadMode = LoadMode.RETURN) -> tuple[Choice, ...]:
    """Return the choices for the events of the process probe, without those that only some kernels have."""
    probe = registry.discover().probes["process"]
    optional = {event.name for event in probe.events if event.optional}
    with attach.load(probe, Libbpf(), features.detect(), LoadOptions(attach_method=method, mode=mode)) as loaded:
        return tuple(choice for choice in loaded.choices if choice.event not in optional)


def test_tracepoints_cover_every_event() -> None:
    assert all(c.chosen and c.chosen.method.name == "tracepoint" for c in choices("tracepoint"))


def test_kprobes_cover_every_event_if_the_kernel_has_kprobes() -> None:
    if features.detect().kprobes:
        assert all(c.chosen and c.chosen.method.name == "kprobe" for c in choices("kprobe"))
    else:
        with pytest.raises(AttachError, match=r"this kernel has no kprobes \(CONFIG_KPROBE_EVENTS\)"):
            choices("kprobe")


def test_trampolines_cover_every_event_unless_the_kernel_refuses_them_all() -> None:
    refused = ""
    try:
        chosen = choices("trampoline")
    except AttachError as error:
        chosen, refused = (), str(error)
    assert bool(chosen) is not ("the kernel refuses trampoline programs" in refused)
    assert all(c.chosen and c.chosen.method.name == "trampoline" for c in chosen)


@pytest.mark.parametrize("mode", LoadMode)
def test_the_default_methods_cover_every_event(mode: LoadMode) -> None:
    chosen = choices(None, mode)
    assert all(c.chosen for c in chosen)
    assert ("task_fail" in {c.event for c in chosen}) is (mode is LoadMode.RETURN)
