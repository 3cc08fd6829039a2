"""How a probe is loaded: by which loader, and with which attempts until one object is attached."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from ebpfmon.errors import AttachError, KernelError
from ebpfmon.kernel import attach
from ebpfmon.kernel.attach import LoadOptions
from ebpfmon.kernel.features import Features
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.model import Loader, Setup
from tests.unit.fakes import PROBE, SECTIONS, SPEC, FakeObject, FakeSymbols
from tests.unit.test_features import FULL
from tests.unit.test_plan import HLIST_ARRAY

KERNEL = replace(FULL, preemption="none", tracefs="/tracefs")
BEST = LoadOptions()
NO_BTF = replace(KERNEL, btf=False)
NO_KPROBES = replace(KERNEL, kprobes=False)
COMPILED = {name: b"" for name, section in SECTIONS.items() if not section.startswith(("fe", "tp/"))}


class Object(FakeObject):
    """A fake object that records how it was created and how often it was closed."""

    closed, kind, kretprobes, file_closed = 0, "", None, False
    setup: Setup | None = None

    def __enter__(self) -> Object:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def btf(self) -> bytes:
        return b""

    def close(self) -> None:
        self.closed += 1

    def close_file(self) -> None:
        self.file_closed = True

    def with_setup(self, setup: Setup) -> Object:
        self.setup = setup
        return self


Load = Callable[..., Object]


@pytest.fixture
def symbols() -> list[FakeSymbols]:
    """The symbols of the kernel, in a list so that a test can replace them."""
    return [FakeSymbols()]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, symbols: list[FakeSymbols]) -> Load:
    """Return a function that loads the probe with the given objects. The first object opened is only read."""
    opened: list[Object] = []

    def opener(kind: str) -> Callable[..., Object]:
        def open_object(
            _: object, path: Path, kretprobes: object = None, compiled: object = None, **_options: int
        ) -> Object:
            opened[0].kind, opened[0].kretprobes = kind, kretprobes  # type: ignore[assignment]
            return opened.pop(0)

        return open_object

    def loaded(
        features: Features = KERNEL,
        options: LoadOptions = BEST,
        *objects: Object,
        facts: attach.KernelFacts | None = None,
    ) -> Object:
        opened[:] = [Object(), *(objects or [Object()])]
        return cast(Object, attach.load(PROBE, cast(Libbpf, None), features, options, facts=facts))

    fakes: dict[str, Any] = {
        "locate": lambda probe: Path("p.bpf.o"), "Btf": lambda raw: None, "read_spec": lambda probe, obj, types: SPEC,
        "open_symbols": lambda libbpf: symbols[0], "compile_source": lambda obj: COMPILED,
        "BpfObject": opener("core"), "BccObject": opener("bcc"), "Kretprobes": lambda libbpf, tracefs: tracefs,
        "LoadedProbe": lambda probe, obj, types, choices, setup: obj.with_setup(setup),
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(attach, name, fake)
    return loaded


def test_every_object_that_fails_is_closed(load: Load) -> None:
    tried = [
        Object({"f2_fexit": errno.EPERM}),
        Object({"t_tp_btf": errno.EINVAL}, "attach"),
        Object(),
    ]
    assert load(NO_KPROBES, BEST, *tried) is tried[2]
    assert [obj.closed for obj in tried] == [1, 1, 0]
    assert [obj.file_closed for obj in tried] == [False, False, True]


def test_the_last_object_is_closed_when_no_candidate_is_left(load: Load) -> None:
    only = Object({"f2_fexit": errno.EPERM})
    last = Object()
    with pytest.raises(AttachError, match=r"^cannot attach 'open' \(probe p\) by trampoline at 'f1'"):
        load(KERNEL, LoadOptions(attach_method="trampoline"), only, last)
    assert (only.closed, last.closed) == (1, 1)


@pytest.mark.parametrize(
    ("features", "loader", "expected"),
    [
        (KERNEL, None, "core"),
        (KERNEL, Loader.CORE, "core"),
        (KERNEL, Loader.BCC, "bcc"),
        (NO_BTF, None, "bcc"),
    ],
)
def test_bcc_is_used_without_btf_or_if_it_is_forced(
    load: Load, features: Features, loader: Loader | None, expected: str
) -> None:
    obj = load(features, LoadOptions(loader=loader))
    assert obj.kind == expected
    assert obj.loaded[0] == ("f2_fexit" if expected == "core" else "f2_kprobe")


def test_the_core_loader_without_btf_is_an_error_with_the_remedy(load: Load) -> None:
    with pytest.raises(KernelError) as caught:
        load(NO_BTF, LoadOptions(loader=Loader.CORE))
    assert str(caught.value) == (
        "cannot load probe 'p': kernel 6.1 has no BTF (/sys/kernel/btf/vmlinux); "
        'set loader = "bcc", or use a kernel built with CONFIG_DEBUG_INFO_BTF'
    )


@pytest.mark.parametrize(("unlimited", "expected"), [(True, None), (False, "/tracefs")])
def test_kretprobes_use_tracefs_if_the_kernel_limits_them(
    load: Load, symbols: list[FakeSymbols], unlimited: bool, expected: str | None
) -> None:
    symbols[0] = FakeSymbols(structs=(HLIST_ARRAY,) if unlimited else ())
    assert load().kretprobes == expected


def test_kretprobes_use_tracefs_with_bcc_because_libbpf_attaches_only_what_it_loaded(
    load: Load, symbols: list[FakeSymbols]
) -> None:
    symbols[0] = FakeSymbols(structs=(HLIST_ARRAY,))
    assert load(KERNEL, LoadOptions(loader=Loader.BCC)).kretprobes == "/tracefs"


@pytest.mark.parametrize(("rows", "size"), [(True, 99), (False, 1)])
def test_without_rows_only_tables_by_process_have_the_smallest_size(load: Load, rows: bool, size: int) -> None:
    sizes = load(KERNEL, LoadOptions(table_size=99, rows=rows)).sizes
    assert sizes == {"p_rows_0": size, "p_rows_1": size, "k_rows_0": 99, "k_rows_1": 99}


def test_the_set_up_reaches_the_object_and_the_loaded_probe(load: Load) -> None:
    setup = Setup(rodata={"cfg_own": 5}, maps={"ports": {b"a": b"1"}})
    for refused in (Object(), Object({"f2_fexit": errno.EACCES})):
        last = Object()
        loaded = load(KERNEL, LoadOptions(setup=setup), refused, last)
        assert loaded is (last if refused.refuse else refused)
        assert (loaded.data[12], loaded.filled, loaded.setup) == (5, setup.maps, setup)


def test_several_loads_share_the_symbols_and_the_kinds_that_the_kernel_does_not_permit(
    load: Load, symbols: list[FakeSymbols], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    @contextmanager
    def open_symbols(_: object) -> Iterator[FakeSymbols]:
        calls.append("open")
        yield FakeSymbols()
        calls.append("close")

    monkeypatch.setattr(attach, "open_symbols", open_symbols)
    refusal = {"f2_fexit": errno.EPERM}
    with attach.KernelFacts(cast(Libbpf, None), KERNEL) as facts:
        assert not calls, "the symbols are opened on first use"
        first, second, third = Object(refusal), Object(refusal), Object(refusal)
        assert load(KERNEL, BEST, first, second, facts=facts) is second
        assert load(KERNEL, BEST, third, facts=facts) is third
        assert calls == ["open"]
    assert calls == ["open", "close"]
