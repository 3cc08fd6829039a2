"""`ebpfmon check`: what this kernel allows, and for each event the way taken and why not a better one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

import msgspec

from ebpfmon import __version__
from ebpfmon.check.findings import Finding, describe
from ebpfmon.config.settings import Settings
from ebpfmon.daemon.probes import load_one, wanted_probes
from ebpfmon.errors import AttachError, KernelError, LoadError
from ebpfmon.kernel import features, host
from ebpfmon.kernel.attach import Known, LoadOptions
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.plan import Choice
from ebpfmon.model.everything import Loader, Probe
from ebpfmon.plugins.registry import Registry

_WIDTH, _INDENT = 100, 21


class Refusal(msgspec.Struct, frozen=True):
    """A better way that was not to be had."""

    strategy: str
    target: str
    reason: str


class Event(msgspec.Struct, frozen=True):
    """How an event is seen; strategy and target are empty if it is not. `misses`: why it may miss calls, if it may."""

    event: str
    strategy: str
    target: str
    refused: tuple[Refusal, ...]
    misses: str = ""


class ProbeVerdict(msgspec.Struct, frozen=True):
    """A probe's events, or the error that kept it from loading; `errno` is the kernel's answer, 0 if there was none."""

    name: str
    loader: Loader | None = None
    events: tuple[Event, ...] = ()
    error: str | None = None
    errno: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """All of it. `status` is the command's exit status: 0 every event seen, 1 some missing, 2 none."""

    status: int
    ebpfmon: str
    libbpf: str | None
    kernel: features.Features
    host: host.Host
    findings: tuple[Finding, ...]
    probes: tuple[ProbeVerdict, ...]
    error: str | None = None


def check(settings: Settings, registry: Registry) -> Verdict:
    """Look, and try: every enabled probe is really loaded, attached and taken out again."""
    kernel = features.look()
    around = host.look(kernel.release)
    libbpf: Libbpf | None = None
    error: str | None = None
    probes: tuple[ProbeVerdict, ...] = ()
    try:
        libbpf = Libbpf()
        features.require_permission(kernel)
    except KernelError as refusal:
        error = str(refusal)
    else:
        wanted = wanted_probes(settings, registry, (settings.apps.by,))
        with Known(libbpf, kernel) as known:
            probes = tuple(_try(probe, options, libbpf, kernel, known) for probe, options in wanted)
    version = libbpf.version if libbpf else None
    findings = tuple(describe(kernel, around, version, {p.errno for p in probes}))
    return Verdict(_status(probes), __version__, version, kernel, around, findings, probes, error)


def _status(probes: Iterable[ProbeVerdict]) -> int:
    seen = [bool(event.strategy) for probe in probes for event in probe.events]
    if not any(seen):
        return 2
    return int(not all(seen) or any(p.error for p in probes))


def _try(probe: Probe, options: LoadOptions, libbpf: Libbpf, kernel: features.Features, known: Known) -> ProbeVerdict:
    try:
        with load_one(probe, libbpf, kernel, options, known=known) as loaded:
            return ProbeVerdict(probe.name, loaded.loader, tuple(_event(c) for c in loaded.choices))
    except KernelError as error:
        code = error.errno if isinstance(error, LoadError | AttachError) else 0
        return ProbeVerdict(probe.name, error=str(error), errno=code)


def _event(choice: Choice) -> Event:
    refused = tuple(Refusal(c.strategy, c.target, reason) for c, reason in choice.refused)
    if not choice.taken:
        return Event(choice.event, "", "", refused)
    return Event(choice.event, choice.taken.strategy, choice.taken.target, refused, choice.misses)


def render(verdict: Verdict) -> Iterator[str]:
    """The verdict for people, in lines of 100 columns at most, so that it can be pasted into a ticket."""
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


def _sum_up(probes: Iterable[ProbeVerdict]) -> str:
    seen = [bool(event.strategy) for probe in probes for event in probe.events]
    failed = "".join(f"; probe '{p.name}' cannot be loaded" for p in probes if p.error)
    return (f"{sum(seen)} of {len(seen)} events can be seen" if any(seen) else "no event can be seen") + failed


def _render_events(events: Iterable[Event]) -> Iterator[str]:
    notes: dict[str, int] = {}  # many events share a reason, which is said once
    for event in events:
        yield from _aligned(f"  {event.event}", f"{event.strategy} at {event.target}" if event.strategy else "not seen")
        if event.misses:
            yield from _aligned("", event.misses)
        targets: dict[tuple[str, str], list[str]] = {}
        for refusal in event.refused:
            targets.setdefault((refusal.strategy, refusal.reason), []).append(refusal.target)
        for (strategy, reason), names in targets.items():
            note = notes.setdefault(reason, len(notes) + 1)
            yield from _aligned("", f"no {strategy} at {', '.join(names)} ({note})")
    for reason, note in notes.items():
        yield from _wrapped(f"  ({note}) {reason}", 6)


def _aligned(about: str, says: str) -> list[str]:
    return _wrapped(f"{about:{_INDENT}}{says}", _INDENT + 3)


def _wrapped(line: str, indent: int) -> list[str]:
    # at spaces alone: names and paths stay whole
    return textwrap.wrap(line, _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
