"""The groups of applications, from a file in the format of Netdata's apps_groups.conf."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ebpfmon.errors import SettingsError

DEFAULT_PATH = Path(__file__).with_name("apps_groups.conf")
"""The groups that come with ebpfmon."""

_COMM_BYTES = 15
_OF_NETDATA = ("managers", "interpreters")
_Rank = tuple[int, str]
"""The place of a pattern in the file, and its group: the least rank wins."""
_FLAGS = "-+ \t\r\f\v"
"""What may stand in front of a name: Netdata hides such a process, or tells more of it."""
_STAR = re.compile(r"\\(.)|(\*)")


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a process must look like: literal pieces with anything between them, in its comm or its command line.

    One piece is a whole comm; an empty first or last piece lets the text begin or end as it likes.
    """

    pieces: tuple[str, ...]

    @classmethod
    def parse(cls, word: str) -> Self:
        """The pattern that a word of the file, without flags and quotes, stands for."""
        inner = word.strip("*")
        if not inner:
            return cls(("", ""))
        if "*" in inner:  # a simple pattern, where a backslash takes the next character's meaning away
            return cls(tuple(_unescaped(word)))
        before, after = word.startswith("*"), word.endswith("*")
        if not before:
            inner = cut(inner)
        return cls(("",) * before + (inner,) + ("",) * after)

    @property
    def of_command_line(self) -> bool:
        """Whether it is compared with the command line instead of the comm."""
        return len(self.pieces) > 2 and not self.pieces[0] and not self.pieces[-1]

    def fits(self, text: str) -> bool:
        """Whether the text has all the pieces in their order, the first and the last at its ends."""
        first, *middle, last = self.pieces
        at, end = len(first), len(text) - len(last)
        if at > end or not (text.startswith(first) and text.endswith(last)):
            return False
        for piece in middle:
            at = text.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True


@dataclass(frozen=True, slots=True)
class _Scan:
    """A pattern that can only be tried; `piece` is its longest, and what lacks that need not be looked at closer."""

    rank: _Rank
    pattern: Pattern
    piece: str
    of_command_line: bool


@dataclass(frozen=True, slots=True)
class Groups:
    """Which group a process belongs to: that of the first pattern of the file that fits.

    `problems` are the lines that are not used, or not wholly, with file and line, in words. `names` are the groups in
    the order of the file. `needs_command_line` says whether any pattern looks at more than the comm.
    """

    names: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    needs_command_line: bool = False
    _exact: dict[str, _Rank] = field(default_factory=dict, repr=False)
    _prefixes: dict[str, _Rank] = field(default_factory=dict, repr=False)
    _suffixes: dict[str, _Rank] = field(default_factory=dict, repr=False)
    _lengths: tuple[tuple[int, ...], tuple[int, ...]] = field(default=((), ()), repr=False)
    _scans: tuple[_Scan, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The groups of a file. Raises SettingsError where it cannot be read at all."""
        try:
            text = path.read_bytes().decode("utf-8-sig", "replace")
        except FileNotFoundError:
            raise SettingsError(f"{path}: no such file") from None
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path}: cannot be read: {error}") from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """The groups of a file's text; `source` is how `problems` call it."""
        problems: list[str] = []
        rules: list[tuple[str, Pattern]] = []
        for number, line in enumerate(text.split("\n"), 1):
            try:
                group, words = _split(line.strip())
            except _UnreadableError as error:
                problems.append(_printable(f"{source}:{number}: {error}"))
                continue
            rules += [(group, Pattern.parse(word)) for word in words]
        return cls._of(rules, problems)

    @classmethod
    def _of(cls, rules: list[tuple[str, Pattern]], problems: Iterable[str]) -> Self:
        exact: dict[str, _Rank] = {}
        prefixes: dict[str, _Rank] = {}
        suffixes: dict[str, _Rank] = {}
        scans: list[_Scan] = []
        for place, (group, pattern) in enumerate(rules):
            rank = (place, group)
            match pattern.pieces:
                case (whole,):
                    exact.setdefault(whole, rank)
                case (prefix, ""):
                    prefixes.setdefault(prefix, rank)
                case ("", suffix):
                    suffixes.setdefault(suffix, rank)
                case pieces:
                    scans.append(_Scan(rank, pattern, max(pieces, key=len), pattern.of_command_line))
        return cls(
            names=tuple(dict.fromkeys(group for group, _ in rules)),
            problems=tuple(problems),
            needs_command_line=any(scan.of_command_line for scan in scans),
            _exact=exact,
            _prefixes=prefixes,
            _suffixes=suffixes,
            _lengths=(_lengths(prefixes), _lengths(suffixes)),
            _scans=tuple(scans),
        )

    def match(self, comm: str, command_line: str) -> str | None:
        """The group of a process, None if no pattern fits.

        `command_line` is its arguments joined by spaces; where that is empty (a kernel thread) the comm stands for it.
        """
        best = self._exact.get(comm)
        for length in self._lengths[0]:
            if length > len(comm):
                break
            rank = self._prefixes.get(comm[:length])
            if rank and (best is None or rank < best):
                best = rank
        for length in self._lengths[1]:
            if length > len(comm):
                break
            rank = self._suffixes.get(comm[-length:])
            if rank and (best is None or rank < best):
                best = rank
        for scan in self._scans:
            if best and best < scan.rank:
                break
            text = (command_line or comm) if scan.of_command_line else comm
            if scan.piece in text and scan.pattern.fits(text):
                return scan.rank[1]
        return best[1] if best else None


def cut(name: str) -> str:
    """A program's name as the kernel keeps it in comm: its first 15 bytes."""
    return name.encode("utf-8", "replace")[:_COMM_BYTES].decode("utf-8", "replace")


class _UnreadableError(Exception):
    """A line that is not used; says why."""


def _split(line: str) -> tuple[str, list[str]]:
    """A line's group and its patterns; no patterns for an empty line."""
    if not line or line.startswith("#"):
        return "", []
    rest = line.lstrip(_FLAGS)
    if rest.startswith(('"', "'")):
        group, rest = _quoted(rest)
        between, colon, rest = rest.partition(":")
    else:
        group, colon, rest = rest.partition(":")
        between = ""
    if not colon or between.strip() or "#" in group:
        raise _UnreadableError(f"'{line}': expected 'group: pattern ...'")
    group = group.strip()
    if not group:
        raise _UnreadableError(f"'{line}': the group has no name: expected 'group: pattern ...'")
    if group in _OF_NETDATA:
        raise _UnreadableError(f"'{group}' is not used: a process without a group belongs to its parent's")
    words = list(_words(rest))
    if not words:
        raise _UnreadableError(f"group '{group}' has no patterns")
    return group, words


def _words(rest: str) -> Iterator[str]:
    """The patterns of a line. A quote is one only at the beginning of a word, as with Netdata."""
    while (rest := rest.lstrip(_FLAGS)) and not rest.startswith("#"):
        if rest.startswith(('"', "'")):
            word, rest = _quoted(rest)
            word = word.lstrip("-+")
        else:
            word, *more = rest.split(maxsplit=1)
            rest = "".join(more)
        if word:
            yield word


def _quoted(text: str) -> tuple[str, str]:
    """What stands in the quotes at the beginning of the text, and what comes after them."""
    inside, closed, rest = text[1:].partition(text[0])
    if not closed:
        raise _UnreadableError(f"{text}: the quote is not closed")
    return inside, rest


def _unescaped(word: str) -> Iterable[str]:
    """The pieces between the stars of a simple pattern."""
    piece, at = "", 0
    for found in _STAR.finditer(word):
        piece += word[at : found.start()] + (found[1] or "")
        at = found.end()
        if found[2]:
            yield piece
            piece = ""
    yield piece + word[at:]


def _lengths(texts: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted({len(text) for text in texts}))


def _printable(message: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
