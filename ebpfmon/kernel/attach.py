"""Choose a candidate for each event of a probe, then load and attach the probe's object.

Candidates that need a function, a tracepoint or a feature that this kernel lacks are excluded first. Then the best
remaining candidates are loaded and attached. If the kernel refuses a program, its candidates are excluded with the
reason, and the next best are tried. Kernel versions are never compared.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from ebpfmon.errors import KernelError, ObjectError
from ebpfmon.kernel.attach_methods import Kernel
from ebpfmon.kernel.bcc import BccObject, compile_source
from ebpfmon.kernel.bpfobject import BpfObject
from ebpfmon.kernel.btf import Btf
from ebpfmon.kernel.features import Features
from ebpfmon.kernel.kretprobes import Kretprobes
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.objects import locate, read_spec
from ebpfmon.kernel.plan import Choice, Plan
from ebpfmon.kernel.symbols import Symbols, open_symbols
from ebpfmon.kernel.tables import ACTIVE_BUFFER_MAP, NO_TABLE, ActiveBuffer, Table, find_tables
from ebpfmon.model import Loader, LoadMode, Probe, Setup

NO_SETUP = Setup()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How to load a probe.

    `attach_method` is the only attach method to use, by name; None uses the best one for each event. If `loader` is
    None, it is CORE on kernels with BTF, otherwise BCC. Without `rows`, per-process tables hold no rows.
    """

    mode: LoadMode = LoadMode.ENTRY
    attach_method: str | None = None
    loader: Loader | None = None
    table_size: int = 16384
    rows: bool = True
    setup: Setup = NO_SETUP


class LoadedProbe:
    """A probe that is loaded and attached: its tables, and the candidate chosen for each event.

    A context manager; closing twice is harmless.
    """

    def __init__(self, probe: Probe, obj: BpfObject, btf: Btf, choices: tuple[Choice, ...], setup: Setup) -> None:
        self.probe, self.object, self.choices, self.setup = probe, obj, choices, setup
        self.loader = Loader.BCC if isinstance(obj, BccObject) else Loader.CORE
        self._programs = sorted({p for c in choices if c.chosen for p in c.chosen.programs})
        self.active_buffer = ActiveBuffer(obj)
        self.tables = [Table(obj, btf, name) for name in find_tables(obj)]
        if not self.tables:
            raise ObjectError(f"cannot read '{obj.path.name}': {NO_TABLE}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach and free the programs and maps, and close the set-up."""
        self.object.close()
        self.setup.close()

    def replace_setup(self, setup: Setup) -> None:
        """Replace the set-up while the programs run, and close the former one. Raises KernelError.

        The rodata settings of both must be the same, because a loaded program cannot change them.
        """
        for name, elements in setup.maps.items():
            self.object.refill(name, self.setup.maps.get(name, {}), elements)
        self.setup.close()
        self.setup = setup

    def missed_runs(self) -> int:
        """Return how many runs of the attached programs the kernel has skipped since the load."""
        return self.object.missed_runs(self._programs)


class KernelFacts:
    """Facts about the running kernel, looked up on first use and shared by all probes that are loaded.

    A context manager, which frees the kernel's BTF (some megabytes).
    """

    def __init__(self, libbpf: Libbpf, features: Features) -> None:
        self._libbpf, self._features = libbpf, features
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @cached_property
    def symbols(self) -> Symbols:
        """The kernel's symbols."""
        return self._closing.enter_context(open_symbols(self._libbpf))

    @cached_property
    def kernel(self) -> Kernel:
        """The kernel's properties that decide which candidates are chosen."""
        return Kernel.of(self.symbols, self._features)


def load(
    probe: Probe,
    libbpf: Libbpf,
    features: Features,
    options: LoadOptions,
    share_with: LoadedProbe | None = None,
    facts: KernelFacts | None = None,
) -> LoadedProbe:
    """Load and attach the best programs of a probe.

    The probe's set-up is closed together with the probe, or at once if the load fails. With `share_with`, both probes
    share their active buffer, so that they swap at the same moment. Pass `facts` to look up the kernel's symbols only
    once for several probes.

    Raises AttachError if no event can be attached, or if an event cannot be attached by a forced attach method;
    ObjectError or LoadError if the object cannot be read or loaded; KernelError if the loader does not work here.
    """
    try:
        with nullcontext(facts) if facts else KernelFacts(libbpf, features) as kernel_facts:
            return _load(probe, libbpf, features, options, share_with, kernel_facts)
    except BaseException:
        options.setup.close()
        raise


def _load(
    probe: Probe,
    libbpf: Libbpf,
    features: Features,
    options: LoadOptions,
    share_with: LoadedProbe | None,
    facts: KernelFacts,
) -> LoadedProbe:
    loader = options.loader or (Loader.CORE if features.btf else Loader.BCC)
    if loader is Loader.CORE and not features.btf:
        raise KernelError(
            f"cannot load probe '{probe.name}': kernel {features.release} has no BTF (/sys/kernel/btf/vmlinux); "
            'set loader = "bcc", or use a kernel built with CONFIG_DEBUG_INFO_BTF'
        )
    path = locate(probe)
    with BpfObject(libbpf, path) as opened:
        spec = read_spec(probe, opened, Btf(opened.btf()))
        compiled = compile_source(opened) if loader is Loader.BCC else None
    kernel = facts.kernel
    if compiled is not None:  # Only libbpf attaches without a limit, and only programs that it has loaded itself.
        kernel = replace(kernel, unlimited_kretprobes=False)
    plan = Plan(probe, spec, kernel, mode=options.mode, attach_method=options.attach_method)
    plan.exclude_unavailable(facts.symbols, compiled)
    while True:
        kretprobes = None if kernel.unlimited_kretprobes else Kretprobes(libbpf, features.tracefs or "")
        obj = (
            BccObject(libbpf, path, kretprobes, compiled)
            if compiled
            else BpfObject(libbpf, path, kretprobes, rdonly_cast=kernel.rdonly_cast)
        )
        try:
            if share_with:
                obj.share(ACTIVE_BUFFER_MAP, share_with.object.map_fd(ACTIVE_BUFFER_MAP))
            if plan.try_load(obj, table_size=options.table_size, rows=options.rows, setup=options.setup):
                loaded = LoadedProbe(probe, obj, Btf(obj.btf()), tuple(plan.choices.values()), options.setup)
                obj.close_file()
                return loaded
        except BaseException:
            obj.close()
            raise
        obj.close()
