"""Check what this kernel allows: load every probe, and report how each event is attached and why not better."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

import msgspec

from ebpfmon import __version__
from ebpfmon.check.findings import Finding, describe
from ebpfmon.config.settings import Settings
from ebpfmon.daemon.probes import enabled_probes, load_one
from ebpfmon.errors import AttachError, KernelError, LoadError
from ebpfmon.kernel import features, host
from ebpfmon.kernel.attach import KernelFacts, LoadOptions
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.plan import Choice
from ebpfmon.model import Loader, Probe
from ebpfmon.plugins.registry import Registry
from ebpfmon.text import printable

_WIDTH, _INDENT = 100, 21


class Refusal(msgspec.Struct, frozen=True):
    """An attach method that is better than the one taken, and the kernel's reason against it."""

    attach_method: str
    target: str
    reason: str


class Event(msgspec.Struct, frozen=True):
    """How an event is attached; method and target are empty if it is not. `misses` says why calls may be missed."""

    event: str
    attach_method: str
    target: str
    refused: tuple[Refusal, ...]
    misses: str = ""


class ProbeReport(msgspec.Struct, frozen=True):
    """A probe's events, or the error that kept it from loading. `errno` is the kernel's answer, 0 if there was none."""

    name: str
    loader: Loader | None = None
    events: tuple[Event, ...] = ()
    error: str | None = None
    errno: int = 0


class Report(msgspec.Struct, frozen=True):
    """The whole report. `status` is the exit status of the command: 0 all events seen, 1 some, 2 none."""

    status: int
    ebpfmon: str
    libbpf: str | None
    kernel: features.Features
    host: host.Host
    findings: tuple[Finding, ...]
    probes: tuple[ProbeReport, ...]
    error: str | None = None


def check(settings: Settings, registry: Registry) -> Report:
    """Return the verdict. Really loads and attaches every enabled probe, and removes it again."""
    kernel = features.detect()
    around = host.detect(kernel.release)
    libbpf: Libbpf | None = None
    error: str | None = None
    probes: tuple[ProbeReport, ...] = ()
    try:
        libbpf = Libbpf()
        features.require_permission(kernel)
    except KernelError as refusal:
        error = str(refusal)
    else:
        enabled = enabled_probes(settings, registry)
        with KernelFacts(libbpf, kernel) as facts:
            probes = tuple(_try(probe, options, libbpf, kernel, facts) for probe, options in enabled)
    version = libbpf.version if libbpf else None
    findings = tuple(describe(kernel, around, version, {p.errno for p in probes}))
    return Report(_status(probes), __version__, version, kernel, around, findings, probes, error)


def _status(probes: Iterable[ProbeReport]) -> int:
    seen = [bool(event.attach_method) for probe in probes for event in probe.events]
    if not any(seen):
        return 2
    return int(not all(seen) or any(p.error for p in probes))


def _try(
    probe: Probe, options: LoadOptions, libbpf: Libbpf, kernel: features.Features, facts: KernelFacts
) -> ProbeReport:
    try:
        with load_one(probe, libbpf, kernel, options, facts=facts) as loaded:
            return ProbeReport(probe.name, loaded.loader, tuple(_event(c) for c in loaded.choices))
    except KernelError as error:
        code = error.errno if isinstance(error, LoadError | AttachError) else 0
        return ProbeReport(probe.name, error=str(error), errno=code)


def _event(choice: Choice) -> Event:
    refused = tuple(Refusal(c.method.name, c.target, reason) for c, reason in choice.refused)
    if not choice.chosen:
        return Event(choice.event, "", "", refused)
    return Event(choice.event, choice.chosen.method.name, choice.chosen.target, refused, choice.miss_reason)


def render(verdict: Report) -> Iterator[str]:
    """Yield the verdict as text in lines of at most 100 columns, so that it can be pasted into a ticket."""
    yield from _aligned("verdict", _sum_up(verdict.probes))
    if verdict.error:
        yield from _aligned("error", verdict.error)
    yield from _aligned("ebpfmon", verdict.ebpfmon)
    for finding in verdict.findings:
        yield from _aligned(finding.about, finding.says)
        for line in finding.advice:
            yield from _aligned("", f"-> {line}")
    for probe in verdict.probes:
        yield ""
        yield from _wrapped(
            f"probe '{probe.name}'" + (f": {probe.error}" if probe.error else f", loader {probe.loader}"), 2
        )
        yield from _render_events(probe.events)


def _sum_up(probes: Iterable[ProbeReport]) -> str:
    seen = [bool(event.attach_method) for probe in probes for event in probe.events]
    failed = "".join(f"; probe '{p.name}' cannot be loaded" for p in probes if p.error)
    return (f"{sum(seen)} of {len(seen)} events can be seen" if any(seen) else "no event can be seen") + failed


def _render_events(events: Iterable[Event]) -> Iterator[str]:
    notes: dict[str, int] = {}  # many events have the same reason, which is printed once
    for event in events:
        seen = f"{event.attach_method} at {event.target}" if event.attach_method else "not seen"
        yield from _aligned(f"  {event.event}", seen)
        if event.misses:
            yield from _aligned("", event.misses)
        targets: dict[tuple[str, str], list[str]] = {}
        for refusal in event.refused:
            targets.setdefault((refusal.attach_method, refusal.reason), []).append(refusal.target)
        for (method, reason), names in targets.items():
            note = notes.setdefault(reason, len(notes) + 1)
            yield from _aligned("", f"no {method} at {', '.join(names)} ({note})")
    for reason, note in notes.items():
        yield from _wrapped(f"  ({note}) {reason}", 6)


def _aligned(about: str, says: str) -> list[str]:
    return _wrapped(f"{about:{_INDENT}}{says}", _INDENT + 3)


def _wrapped(line: str, indent: int) -> list[str]:
    # only break at spaces, so that names and paths stay whole
    return textwrap.wrap(
        printable(line), _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
