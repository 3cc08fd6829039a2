"""Load every enabled probe once and report how each event is attached, and why better attach methods are not used."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

import msgspec

from ebpfmon import __version__
from ebpfmon.check.findings import Finding, describe
from ebpfmon.config.settings import Settings
from ebpfmon.daemon.probes import enabled_probes, load_one, reason_of
from ebpfmon.errors import AttachError, KernelError, LoadError
from ebpfmon.kernel import features, host
from ebpfmon.kernel.attach import KernelFacts, LoadOptions
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.kernel.plan import Choice
from ebpfmon.model import Loader, Probe
from ebpfmon.plugins.registry import Registry
from ebpfmon.text import printable

_WIDTH, _INDENT, _MAX_INDENT = 100, 24, 48


class Refusal(msgspec.Struct, frozen=True):
    """An attach method that would have been preferred, and why it is not used."""

    attach_method: str
    target: str
    reason: str


class Event(msgspec.Struct, frozen=True):
    """How an event is attached.

    `attach_method` and `target` are empty if it is not. `misses` is why it may miss calls, empty if it does not.
    """

    event: str
    attach_method: str
    target: str
    refused: tuple[Refusal, ...]
    misses: str = ""


class ProbeReport(msgspec.Struct, frozen=True):
    """The events of a probe, or the reason why it cannot be loaded. `errno` is the kernel's, 0 if there was none."""

    name: str
    loader: Loader | None = None
    events: tuple[Event, ...] = ()
    error: str | None = None
    errno: int = 0


class Report(msgspec.Struct, frozen=True):
    """The whole report. `status` is the exit status: 0 if all events can be attached, 1 if some can, 2 if none can."""

    status: int
    ebpfmon: str
    libbpf: str | None
    kernel: features.Features
    host: host.Host
    findings: tuple[Finding, ...]
    probes: tuple[ProbeReport, ...]
    error: str | None = None


def check(settings: Settings, registry: Registry) -> Report:
    """Load and attach every enabled probe, remove it again, and return the report for this machine."""
    kernel = features.detect()
    machine = host.detect(kernel.release)
    libbpf: Libbpf | None = None
    error: str | None = None
    probes: tuple[ProbeReport, ...] = ()
    try:
        libbpf = Libbpf()
        features.require_permission(kernel)
    except KernelError as reason:
        error = str(reason)
    else:
        failed: dict[str, str] = {}
        enabled = enabled_probes(settings, registry, failed)
        with KernelFacts(libbpf, kernel) as facts:
            probes = tuple(_report(probe, options, libbpf, kernel, facts) for probe, options in enabled)
        probes += tuple(ProbeReport(name, error=reason) for name, reason in failed.items())
    version = libbpf.version if libbpf else None
    findings = tuple(describe(kernel, machine, version, {p.errno for p in probes}))
    return Report(_status(probes), __version__, version, kernel, machine, findings, probes, error)


def _status(probes: Iterable[ProbeReport]) -> int:
    attached = _attached(probes)
    if not any(attached):
        return 2
    return int(not all(attached) or any(p.error for p in probes))


def _attached(probes: Iterable[ProbeReport]) -> list[bool]:
    """Return whether each event is attached, for the events of all probes."""
    return [bool(event.attach_method) for probe in probes for event in probe.events]


def _report(
    probe: Probe, options: LoadOptions, libbpf: Libbpf, kernel: features.Features, facts: KernelFacts
) -> ProbeReport:
    try:
        with load_one(probe, libbpf, kernel, options, facts=facts) as loaded:
            return ProbeReport(probe.name, loaded.loader, tuple(_event(c) for c in loaded.choices))
    except KernelError as error:
        code = error.errno if isinstance(error, LoadError | AttachError) else 0
        return ProbeReport(probe.name, error=reason_of(probe, error), errno=code)


def _event(choice: Choice) -> Event:
    refused = tuple(Refusal(c.method.name, c.target, reason) for c, reason in choice.refused)
    if not choice.chosen:
        return Event(choice.event, "", "", refused)
    return Event(choice.event, choice.chosen.method.name, choice.chosen.target, refused, choice.miss_reason)


def render(report: Report) -> Iterator[str]:
    """Yield the report as lines of at most 100 columns, so that it can be pasted into a ticket."""
    yield from _aligned("result", _summary(report))
    if report.error:
        yield from _aligned("error", report.error)
    yield from _aligned("ebpfmon", report.ebpfmon)
    for finding in report.findings:
        yield from _aligned(finding.about, finding.says)
        for line in finding.advice:
            yield from _aligned("", f"-> {line}")
    for probe in report.probes:
        yield ""
        yield from _wrapped(
            f"probe '{probe.name}'" + (f": {probe.error}" if probe.error else f", loader {probe.loader}"), 2
        )
        yield from _render_events(probe.events)


def _summary(report: Report) -> str:
    if not report.probes and not report.error:
        return "no probe is enabled"
    attached = _attached(report.probes)
    failed = "".join(f"; probe '{p.name}' cannot be loaded" for p in report.probes if p.error)
    some = f"{sum(attached)} of {len(attached)} events can be attached"
    return (some if any(attached) else "no event can be attached") + failed


def _render_events(events: Iterable[Event]) -> Iterator[str]:
    notes: dict[str, int] = {}  # Many events share a reason, so each reason is printed once, with a number.
    events = list(events)
    indent = min(max(_INDENT, *(len(event.event) + 4 for event in events), 0), _MAX_INDENT)
    for event in events:
        how = f"{event.attach_method} at {event.target}" if event.attach_method else "not attached"
        yield from _aligned(f"  {event.event}", how, indent)
        if event.misses:
            yield from _aligned("", event.misses, indent)
        targets: dict[tuple[str, str], list[str]] = {}
        for refusal in event.refused:
            targets.setdefault((refusal.attach_method, refusal.reason), []).append(refusal.target)
        for (method, reason), names in targets.items():
            note = notes.setdefault(reason, len(notes) + 1)
            yield from _aligned("", f"rejected: {method} at {', '.join(dict.fromkeys(names))} ({note})", indent)
    for reason, note in notes.items():
        yield from _wrapped(f"  ({note}) {reason}", 6)


def _aligned(about: str, says: str, indent: int = _INDENT) -> list[str]:
    return _wrapped(f"{about:{indent - 2}}  {says}", indent + 3)


def _wrapped(line: str, indent: int) -> list[str]:
    # Break lines only at spaces, so that names and paths stay whole.
    return textwrap.wrap(
        printable(line), _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
