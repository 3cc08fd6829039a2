"""Parse the query of a URL into a msgspec Struct. The OpenAPI document is generated from the same Structs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from ebpfmon import printable

_EXCERPT = 64  # characters

_Query = TypeVar("_Query", bound=msgspec.Struct)


class QueryError(Exception):
    """A query is wrong. The message is for the client, and `status` is the HTTP status."""

    status = 400


class NotFoundError(QueryError):
    """A client asked for an object that does not exist."""

    status = 404


class NoQuery(msgspec.Struct, frozen=True):
    """The query of a path without parameters."""


def parse(parameters: Iterable[tuple[str, str]], kind: type[_Query]) -> _Query:
    """Return the parameters of a URL. Parameters that are missing have their defaults. Raises QueryError."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    for name, text in parameters:
        if name not in fields:
            expected = f"expected one of {', '.join(fields)}" if fields else "this path has none"
            raise QueryError(f"no such parameter '{excerpt(name)}': {expected}")
        if name in values:
            raise QueryError(f"{name}: given twice")
        try:
            values[name] = msgspec.convert(text, fields[name].type, strict=False)
        except msgspec.ValidationError:
            raise QueryError(f"{name}: expected {_expected(msgspec.json.schema(fields[name].type))}") from None
    return kind(**values)


def excerpt(text: str) -> str:
    """Return the beginning of a client's text, safe to send back or log."""
    return printable(text, _EXCERPT)


def _expected(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if "maximum" in schema:
        return f"a number from {schema['minimum']} to {schema['maximum']}"
    return f"{schema['minLength']} to {schema['maxLength']} characters"
