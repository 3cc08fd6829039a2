"""Convert parsed TOML to typed values. An error is one line: the file, the key path, what was expected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from ebpfmon.errors import SettingsError

_T = TypeVar("_T")


def typed(raw: object, kind: type[_T], source: str, where: str) -> _T:
    """Return a value as this type. Raises SettingsError, which names the file `source` and the key path `where`."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}: {_explain(str(error), kind, where)}") from None
    except Exception as error:  # from a plugin's own check
        raise SettingsError(f"{source}: {where}: {type(error).__name__}: {error}") from None


def require_known(raw: Iterable[str], names: Iterable[str], source: str, prefix: str) -> None:
    """Check that all keys of a section are known names. Raises SettingsError."""
    names = list(names)
    for name in raw:
        if name not in names:
            raise SettingsError(f"{source}: {_unknown(prefix, name, names)}")


def listed(names: Iterable[str]) -> str:
    """Return names as messages list them."""
    return ", ".join(sorted(names))


def _explain(message: str, kind: object, where: str) -> str:
    """Rewrite a message of msgspec's ("Expected `int`, got `str` - at `$.interval`") with the key path in front."""
    said, _, at = message.partition(" - at `$")
    key = where + at.rstrip("`").replace("[...]", "")
    unknown = re.search(r"unknown field `([^`]+)`", said)
    if unknown:
        instead = getattr(kind, "removed", {}).get(unknown[1])
        if instead:
            return f"{key}.{unknown[1]}: {instead}"
        fields = [f.encode_name for f in msgspec.structs.fields(kind)] if isinstance(kind, type) else []
        return _unknown(f"{key}.", unknown[1], fields)
    wrong = re.search(r"Invalid enum value (.+)", said)
    if wrong:
        return f"{key}: {wrong[1]}: expected one of {listed(_options(kind, at.strip('.`')))}"
    own, _, reason = said.partition(": ")
    if isinstance(kind, type) and own in (f.encode_name for f in msgspec.structs.fields(kind)):  # its own check
        return f"{key}.{own}: {reason}"
    said = said.replace("`", "").replace("object", "table")
    return f"{key}: {said[0].lower()}{said[1:]}"


def _options(kind: object, field: str) -> list[str]:
    """Return the values that a field of enumerated strings takes."""
    for found in msgspec.structs.fields(kind) if isinstance(kind, type) else ():
        if found.encode_name == field:
            schema = msgspec.json.schema(found.type)
            for place in (schema, *schema.get("$defs", {}).values()):
                if "enum" in place:
                    return [str(v) for v in place["enum"]]
    return []


def _unknown(prefix: str, name: str, names: Sequence[str]) -> str:
    import difflib  # only needed for an error

    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"expected one of {listed(names)}"
    return f"{prefix}{name}: no such setting: {hint}"
