"""What a client's Accept, Accept-Encoding and If-None-Match headers ask for. What they mean by mistake they do not
get: a header that makes no sense counts as none."""

from __future__ import annotations

from collections.abc import Iterator

_MOST = 64  # entries of a list that are looked at


def accepts_gzip(header: str) -> bool:
    """Of an Accept-Encoding header."""
    wanted = dict(_weighted(header))
    return wanted.get("gzip", wanted.get("x-gzip", wanted.get("*", 0.0))) > 0


def prefers_openmetrics(header: str) -> bool:
    """Of an Accept header: whether OpenMetrics 1 is wanted, and not less than plain text."""
    wanted = dict(_weighted(header, ("application/openmetrics-text", "0.0.1")))
    openmetrics = wanted.get("application/openmetrics-text", 0.0)
    return openmetrics > 0 and openmetrics >= wanted.get("text/plain", 0.0)


def prefers_ndjson(header: str) -> bool:
    """Of an Accept header: whether NDJSON is wanted, and more than server-sent events."""
    wanted = dict(_weighted(header))
    ndjson = max(wanted.get("application/x-ndjson", 0.0), wanted.get("application/ndjson", 0.0))
    return ndjson > wanted.get("text/event-stream", 0.0)


def matches(header: str, tag: str) -> bool:
    """Whether an If-None-Match header has this tag; strong or weak is all the same for it."""
    given = [part.strip().removeprefix("W/") for part in header.split(",", _MOST)]
    return "*" in given or tag.removeprefix("W/") in given


def _weighted(header: str, unless: tuple[str, str] = ("", "")) -> Iterator[tuple[str, float]]:
    """Each entry with its q, the best of equal ones last; `unless`: one that is not meant, in this version."""
    found = []
    for part in header.split(",", _MOST)[:_MOST]:
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        values = dict(p.partition("=")[::2] for p in parameters)
        if (name, values.get("version", "")) != unless:
            found.append((name, _quality(values.get("q", "1"))))
    yield from sorted(found, key=lambda entry: entry[1])


def _quality(text: str) -> float:
    digits = text.replace(".", "", 1)
    return min(float(text), 1.0) if digits.isascii() and digits.isdigit() and len(text) <= 5 else 0.0
