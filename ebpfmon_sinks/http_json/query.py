"""Parse the query of a URL into a msgspec Struct. The Struct's types are also what the OpenAPI document says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from ebpfmon import printable

_SHOWN = 64  # characters of a client's text that are sent back

_Query = TypeVar("_Query", bound=msgspec.Struct)


class QueryError(Exception):
    """A client asked for what does not exist. str() is for the client, `status` is HTTP's."""

    status = 400


class NotFoundError(QueryError):
    """A client asked for an object that does not exist."""

    status = 404


class NoQuery(msgspec.Struct, frozen=True):
    """The query of a path without parameters."""


def parse(given: Iterable[tuple[str, str]], kind: type[_Query]) -> _Query:
    """Return the parameters of a URL, those not given with their defaults. Raises QueryError."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    found: dict[str, Any] = {}
    for name, text in given:
        if name not in fields:
            expected = f"expected one of {', '.join(fields)}" if fields else "there are none here"
            raise QueryError(f"no such parameter '{shown(name)}': {expected}")
        if name in found:
            raise QueryError(f"{name}: given twice")
        try:
            found[name] = msgspec.convert(text, fields[name].type, strict=False)
        except msgspec.ValidationError:
            raise QueryError(f"{name}: expected {_expected(msgspec.json.schema(fields[name].type))}") from None
    return kind(**found)


def shown(text: str) -> str:
    """Return what a client sent, fit to be sent back or logged."""
    return printable(text, _SHOWN)


def _expected(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if "maximum" in schema:
        return f"a number from {schema['minimum']} to {schema['maximum']}"
    return f"{schema['minLength']} to {schema['maxLength']} characters"
