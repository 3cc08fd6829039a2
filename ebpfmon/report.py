"""`ebpfmon check`: what this kernel allows, and for each event the way taken and why not a better one."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ebpfmon.config import Settings
from ebpfmon.daemon import load_options
from ebpfmon.errors import KernelError
from ebpfmon.kernel import attach, features
from ebpfmon.kernel.attach import Choice
from ebpfmon.kernel.libbpf import Libbpf
from ebpfmon.registry import Registry


class Refusal(msgspec.Struct, frozen=True):
    """A better way that was not to be had."""

    strategy: str
    target: str
    reason: str


class Event(msgspec.Struct, frozen=True):
    """How an event is seen; strategy and target are empty if it is not."""

    event: str
    strategy: str
    target: str
    refused: tuple[Refusal, ...]


class ProbeVerdict(msgspec.Struct, frozen=True):
    """A probe's events, or the error that kept it from loading."""

    name: str
    events: tuple[Event, ...] = ()
    error: str | None = None


class Verdict(msgspec.Struct, frozen=True):
    """All of it. `status` is the command's exit status: 0 every event seen, 1 some missing, 2 none."""

    status: int
    libbpf: str | None
    kernel: features.Features
    probes: tuple[ProbeVerdict, ...]
    error: str | None = None


def check(settings: Settings, registry: Registry) -> Verdict:
    """Look, and try: every enabled probe is really loaded, attached and taken out again."""
    found = features.look()
    try:
        libbpf = Libbpf()
    except KernelError as error:
        return Verdict(2, None, found, (), str(error))
    try:
        features.require_permission(found)
    except KernelError as error:
        return Verdict(2, libbpf.version, found, (), str(error))
    probes = tuple(
        _try(registry, name, settings, libbpf, found) for name, own in settings.plugins.items() if own.enabled
    )
    events = [event for probe in probes for event in probe.events]
    seen = [event for event in events if event.strategy]
    missing = len(seen) < len(events) or any(p.error for p in probes)
    return Verdict(2 if not seen else int(missing), libbpf.version, found, probes)


def _try(registry: Registry, name: str, settings: Settings, libbpf: Libbpf, found: features.Features) -> ProbeVerdict:
    options = load_options(settings, settings.plugins[name])
    try:
        with attach.load(registry.probes[name], libbpf, found, options) as probe:
            return ProbeVerdict(name, tuple(_event(c) for c in probe.choices))
    except KernelError as error:
        return ProbeVerdict(name, error=str(error))


def _event(choice: Choice) -> Event:
    refused = tuple(Refusal(c.strategy, c.target, reason) for c, reason in choice.refused)
    if not choice.taken:
        return Event(choice.event, "", "", refused)
    return Event(choice.event, choice.taken.strategy, choice.taken.target, refused)


def render(verdict: Verdict) -> Iterator[str]:
    """The verdict for people."""
    kernel = verdict.kernel
    yield f"kernel        {kernel.release} ({kernel.machine})"
    yield f"libbpf        {verdict.libbpf or 'not found'}"
    yield f"capabilities  {', '.join(kernel.capabilities) or 'none that matter'}"
    yield f"BTF           {_said(kernel.btf)}"
    yield f"kprobes       {_said(kernel.kprobes)}"
    yield f"JIT           {_said(kernel.jit)}"
    yield f"lockdown      {kernel.lockdown or 'could not tell (no securityfs, or a kernel without it)'}"
    if verdict.error:
        yield f"error         {verdict.error}"
    for probe in verdict.probes:
        yield ""
        yield f"probe '{probe.name}'" + (f": {probe.error}" if probe.error else "")
        for event in probe.events:
            yield f"  {event.event:18} " + (f"{event.strategy} at {event.target}" if event.strategy else "not seen")
            for reason, ways in _by_reason(event.refused).items():
                yield f"  {'':18}   no {', '.join(ways)}: {reason}"


def _by_reason(refused: tuple[Refusal, ...]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for refusal in refused:
        grouped.setdefault(refusal.reason, []).append(f"{refusal.strategy} at {refusal.target}")
    return grouped


def _said(answer: bool | None) -> str:
    return {True: "yes", False: "no", None: "could not tell"}[answer]
