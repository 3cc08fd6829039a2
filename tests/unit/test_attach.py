"""How a probe gets into the kernel: by which loader, and object after object until one is attached."""

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
from tests.unit.test_plan import ROOM

CALM = replace(FULL, preemption="none", tracefs="/tracefs")
BEST = LoadOptions()
NO_BTF = replace(CALM, btf=False)
NO_KPROBES = replace(CALM, kprobes=False)
COMPILED = {name: b"" for name, section in SECTIONS.items() if not section.startswith(("fe", "tp/"))}


class Object(FakeObject):
    """One that knows how it was made, and how often it was closed."""

    closed, kind, made_with, file_closed = 0, "", None, False
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
    """What the kernel has: to be replaced."""
    return [FakeSymbols()]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, symbols: list[FakeSymbols]) -> Load:
    """Loads, with these objects to be had from the second on: the first is only read."""
    opened: list[Object] = []

    def make(kind: str) -> Callable[..., Object]:
        def made(_: object, path: Path, kretprobes: object = None, compiled: object = None) -> Object:
            opened[0].kind, opened[0].made_with = kind, kretprobes  # type: ignore[assignment]
            return opened.pop(0)

        return made

    def loaded(
        features: Features = CALM,
        options: LoadOptions = BEST,
        *objects: Object,
        facts: attach.KernelFacts | None = None,
    ) -> Object:
        opened[:] = [Object(), *(objects or [Object()])]
        return cast(Object, attach.load(PROBE, cast(Libbpf, None), features, options, facts=facts))

    fakes: dict[str, Any] = {
        "locate": lambda probe: Path("p.bpf.o"), "Btf": lambda raw: None, "read_spec": lambda probe, obj, types: SPEC,
        "open_symbols": lambda libbpf: symbols[0], "compile_source": lambda obj: COMPILED,
        "BpfObject": make("core"), "BccObject": make("bcc"), "Kretprobes": lambda libbpf, tracefs: tracefs,
        "LoadedProbe": lambda probe, obj, types, choices, setup: obj.with_setup(setup),
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(attach, name, fake)
    return loaded


def test_every_object_that_was_tried_in_vain_is_closed(load: Load) -> None:
    tried = [
        Object({"f2_fexit": errno.EPERM}),
        Object({"t_tp_btf": errno.EINVAL}, "attach"),
        Object(),
    ]
    assert load(NO_KPROBES, BEST, *tried) is tried[2]
    assert [obj.closed for obj in tried] == [1, 1, 0]
    assert [obj.file_closed for obj in tried] == [False, False, True]


def test_an_object_is_closed_when_nothing_is_left_to_try(load: Load) -> None:
    only = Object({"f2_fexit": errno.EPERM})
    last = Object()
    with pytest.raises(AttachError, match=r"^cannot attach 'open' \(probe p\) by trampoline at 'f1'"):
        load(CALM, LoadOptions(attach_method="trampoline"), only, last)
    assert (only.closed, last.closed) == (1, 1)


@pytest.mark.parametrize(
    ("features", "loader", "expected"),
    [(CALM, None, "core"), (CALM, Loader.CORE, "core"), (CALM, Loader.BCC, "bcc"), (NO_BTF, None, "bcc")],
)
def test_bcc_loads_where_the_kernel_has_no_btf_or_it_is_forced(
    load: Load, features: Features, loader: Loader | None, expected: str
) -> None:
    obj = load(features, LoadOptions(loader=loader))
    assert obj.kind == expected
    assert obj.loaded[0] == ("f2_fexit" if expected == "core" else "f2_kprobe")


def test_a_kernel_without_btf_is_refused_to_the_core_loader_with_the_remedy(load: Load) -> None:
    with pytest.raises(KernelError) as caught:
        load(NO_BTF, LoadOptions(loader=Loader.CORE))
    assert str(caught.value) == (
        "cannot load probe 'p': kernel 6.1 has no BTF (/sys/kernel/btf/vmlinux); "
        'set loader = "bcc", or use a kernel built with CONFIG_DEBUG_INFO_BTF'
    )


@pytest.mark.parametrize(("has_room", "expected"), [(True, None), (False, "/tracefs")])
def test_kretprobes_are_made_in_tracefs_where_the_kernels_own_have_no_room(
    load: Load, symbols: list[FakeSymbols], has_room: bool, expected: str | None
) -> None:
    symbols[0] = FakeSymbols(structs=(ROOM,) if has_room else ())
    assert load().made_with == expected


def test_kretprobes_are_made_in_tracefs_for_what_bcc_compiled_as_libbpf_links_only_what_it_loaded(
    load: Load, symbols: list[FakeSymbols]
) -> None:
    symbols[0] = FakeSymbols(structs=(ROOM,))
    assert load(CALM, LoadOptions(loader=Loader.BCC)).made_with == "/tracefs"


@pytest.mark.parametrize(("rows", "size"), [(True, 99), (False, 1)])
def test_without_rows_a_table_by_process_takes_no_memory_and_one_by_other_keys_has_its_rows(
    load: Load, rows: bool, size: int
) -> None:
    sizes = load(CALM, LoadOptions(table_size=99, rows=rows)).sizes
    assert sizes == {"p_rows_0": size, "p_rows_1": size, "k_rows_0": 99, "k_rows_1": 99}


def test_what_a_probe_makes_of_its_settings_reaches_the_object_and_the_loaded_probe(
    load: Load,
) -> None:
    setup = Setup(rodata={"cfg_own": 5}, maps={"ports": {b"a": b"1"}})
    for refused in (Object(), Object({"f2_fexit": errno.EACCES})):
        last = Object()
        loaded = load(CALM, LoadOptions(setup=setup), refused, last)
        assert loaded is (last if refused.refuse else refused)
        assert (loaded.data[12], loaded.filled, loaded.setup) == (5, setup.maps, setup)


def test_several_loads_look_at_the_kernel_once_and_try_once_what_it_does_not_permit(
    load: Load, symbols: list[FakeSymbols], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    @contextmanager
    def open_symbols(_: object) -> Iterator[FakeSymbols]:
        said.append("looked")
        yield FakeSymbols()
        said.append("closed")

    monkeypatch.setattr(attach, "open_symbols", open_symbols)
    refusal = {"f2_fexit": errno.EPERM}
    with attach.KernelFacts(cast(Libbpf, None), CALM) as facts:
        assert not said, "it looks when it needs to"
        tried, second, third = Object(refusal), Object(refusal), Object(refusal)
        assert load(CALM, BEST, tried, second, facts=facts) is second
        assert load(CALM, BEST, third, facts=facts) is third
        assert said == ["looked"]
    assert said == ["looked", "closed"]
