"""Convert parsed TOML to typed values.

An error message is one line: the file, the key path, and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from ebpfmon.errors import SettingsError, describe

_T = TypeVar("_T")

_TOML = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "a boolean",
    "array": "an array",
    "object": "a table",
}
"""The words of TOML for the names of types in messages of msgspec."""


def typed(raw: object, kind: type[_T], source: str, key_path: str) -> _T:
    """Return a value converted to a type. Raises SettingsError, which names `source` (the file) and the key path."""
    _require_no_nul(raw, source, key_path)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}: {_explain(str(error), raw, kind, key_path)}") from None
    except BaseException as error:  # raised by a plugin's own check
        raise SettingsError(f"{source}: {key_path}: {describe(error)}") from None


def require_known(raw: Iterable[str], names: Iterable[str], source: str, prefix: str) -> None:
    """Raise SettingsError if a key of a section is not one of these names."""
    names = list(names)
    for name in raw:
        if name not in names:
            raise SettingsError(f"{source}: {_unknown(prefix, name, names)}")


def join_names(names: Iterable[str]) -> str:
    """Return names as a list for a message."""
    return ", ".join(sorted(names))


def _require_no_nul(raw: object, source: str, key_path: str) -> None:
    """Raise SettingsError if a text contains a NUL character, because the system's functions refuse it everywhere."""
    values = [(key_path, raw)]
    while values:
        key, value = values.pop()
        if isinstance(value, dict):
            values += [(f"{key}.{name}", inner) for name, inner in value.items()]
        elif isinstance(value, list):
            values += [(f"{key}[{n}]", inner) for n, inner in enumerate(value)]
        elif isinstance(value, str) and "\0" in value:
            raise SettingsError(f"{source}: {key}: '{value}': a text must not contain a NUL character")


def _explain(message: str, raw: object, kind: object, key_path: str) -> str:
    """Rewrite an error message of msgspec so that it begins with the key path, and uses the words of TOML.

    msgspec's messages look like this: "Expected `int`, got `str` - at `$.interval`".
    """
    reason, _, position = message.partition(" - at `$")
    key = key_path + position.rstrip("`").replace("[...]", "")
    unknown = re.search(r"unknown field `([^`]+)`", reason)
    if unknown:
        replacement = getattr(kind, "removed", {}).get(unknown[1])
        if replacement:
            return f"{key}.{unknown[1]}: {replacement}"
        fields = [f.encode_name for f in msgspec.structs.fields(kind)] if isinstance(kind, type) else []
        return _unknown(f"{key}.", unknown[1], fields)
    invalid = re.search(r"Invalid enum value (.+)", reason)
    if invalid:
        return f"{key}: {invalid[1]}: expected one of {join_names(_allowed_values(kind, position.strip('.`')))}"
    missing = re.search(r"Object missing required field `([^`]+)`", reason)
    if missing:
        return f"{key}.{missing[1]}: this setting is required"
    # A struct's own check (__post_init__) names the field at the beginning of its message.
    field, _, explanation = reason.partition(": ")
    if isinstance(kind, type) and field in (f.encode_name for f in msgspec.structs.fields(kind)):
        return f"{key}.{field}: {explanation}"
    limits = _limits(kind, position.strip(".`"))
    if limits:
        reason = re.sub(r"^(Expected `\w+`)( [<>]=? \S+)?", rf"\1 {limits}", reason)
    reason = re.sub(r"`(\w+)`", lambda name: _TOML.get(name[1], name[1]), reason)
    reason = reason.replace("of length >= 1", "that is not empty")
    if kind == list[dict[str, Any]] and not position:
        reason = f"Expected an array of tables; write [[{key}]]"
    value = _value_at(raw, position)
    shown = f"{value}: " if isinstance(value, int | float) and ", got " not in reason else ""
    return f"{key}: {shown}{reason[0].lower()}{reason[1:]}"


def _value_at(raw: object, position: str) -> object:
    """Return the value at a position such as `[0].port`, or None if it cannot be found."""
    try:
        for name, index in re.findall(r"\.([^.\[`]+)|\[(\d+)\]", position):
            raw = raw[name or int(index)]  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        return None
    return None if isinstance(raw, dict | list) else raw


def _limits(kind: object, name: str) -> str:
    """Return the range of numbers that a field allows, such as `from 0 to 65535`. Empty if it has none."""
    for field in msgspec.structs.fields(kind) if isinstance(kind, type) else ():
        if field.encode_name == name:
            schema = msgspec.json.schema(field.type)
            match schema.get("minimum"), schema.get("maximum"):
                case None, None:
                    return ""
                case least, None:
                    return f"of at least {least}"
                case None, greatest:
                    return f"of at most {greatest}"
                case least, greatest:
                    return f"from {least} to {greatest}"
    return ""


def _allowed_values(kind: object, name: str) -> list[str]:
    """Return the values that a field of enumerated strings allows."""
    for field in msgspec.structs.fields(kind) if isinstance(kind, type) else ():
        if field.encode_name == name:
            schema = msgspec.json.schema(field.type)
            for definition in (schema, *schema.get("$defs", {}).values()):
                if "enum" in definition:
                    return [str(value) for value in definition["enum"]]
    return []


def _unknown(prefix: str, name: str, names: Sequence[str]) -> str:
    import difflib  # only an error needs it

    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean '{close[0]}'?" if close else f"expected one of {join_names(names)}"
    return f"{prefix}{name}: no such setting: {hint}"
