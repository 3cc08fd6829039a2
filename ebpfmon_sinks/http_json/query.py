"""What may stand behind the `?` of a URL, and what is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_LONGEST = 256


class QueryError(Exception):
    """What was asked for does not exist; str() is for whoever asked, and `status` is HTTP's."""

    status = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One that a route knows. A number has a `maximum`; without one it is text, of the `choices` if there are any."""

    name: str
    description: str
    default: str | int
    minimum: int = 1
    maximum: int = 0
    choices: tuple[str, ...] = ()

    def parse(self, text: str) -> str | int:
        """Raises QueryError."""
        if self.maximum:
            # int() takes more than digits, and a long time for many
            if text.isascii() and text.isdigit() and len(text) <= 9 and self.minimum <= int(text) <= self.maximum:
                return int(text)
            raise QueryError(f"{self.name}: expected a number from {self.minimum} to {self.maximum}")
        if self.choices and text not in self.choices:
            raise QueryError(f"{self.name}: expected one of {', '.join(self.choices)}")
        if not text or len(text) > _LONGEST:
            raise QueryError(f"{self.name}: expected 1 to {_LONGEST} characters")
        return text

    def schema(self) -> dict[str, Any]:
        """As OpenAPI has it."""
        if self.maximum:
            of_value: dict[str, Any] = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        elif self.choices:
            of_value = {"type": "string", "enum": [*self.choices]}
        else:
            of_value = {"type": "string", "minLength": 1, "maxLength": _LONGEST}
        if self.default != "":
            of_value["default"] = self.default
        return {"name": self.name, "in": "query", "description": self.description, "schema": of_value}


def parse(given: Iterable[tuple[str, str]], known: Iterable[Parameter]) -> Mapping[str, Any]:
    """All parameters with their values, those that were not given with their defaults. Raises QueryError."""
    parameters = {p.name: p for p in known}
    found: dict[str, str | int] = {}
    for name, text in given:
        if name not in parameters:
            expected = f"expected one of {', '.join(parameters)}" if parameters else "there are none here"
            raise QueryError(f"no such parameter '{shown(name)}': {expected}")
        if name in found:
            raise QueryError(f"{name}: given twice")
        found[name] = parameters[name].parse(text)
    return {name: found.get(name, p.default) for name, p in parameters.items()}


def shown(text: str) -> str:
    """What somebody sent, fit to be sent back, or put into a log."""
    return "".join(c if c.isprintable() else "?" for c in text[:64])
