"""Read groups of applications from a file in the format of Netdata's apps_groups.conf."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ebpfmon.errors import SettingsError
from ebpfmon.files import read_text
from ebpfmon.text import escaped

DEFAULT_PATH = Path(__file__).with_name("apps_groups.conf")
"""The groups file that comes with ebpfmon."""

_COMM_BYTES = 15
_NETDATA_ONLY = ("managers", "interpreters")
"""Group names that have a special meaning in Netdata."""
_Rank = tuple[int, str]
"""The position of a pattern in the file, and its group. The lowest rank wins."""
_FLAGS = "-+ \t\r\f\v"
"""Characters that Netdata allows before a name, as flags that hide a process or show more of it."""
_STAR = re.compile(r"\\(.)|(\*)")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern for a comm or a command line: literal pieces with any text between them.

    A single piece must equal the whole comm. An empty first or last piece matches any beginning or end.
    """

    pieces: tuple[str, ...]

    @classmethod
    def parse(cls, word: str) -> Self:
        """Return the pattern for a word of the file. The word has no flags or quotes."""
        inner = word.strip("*")
        if not inner:
            return cls(("", ""))
        if "*" in inner:  # This is a Netdata simple pattern, in which a backslash quotes the next character.
            return cls(tuple(_unescaped(word)))
        any_start, any_end = word.startswith("*"), word.endswith("*")
        if not any_start:
            inner = truncate_comm(inner)
        return cls(("",) * any_start + (inner,) + ("",) * any_end)

    @property
    def matches_command_line(self) -> bool:
        """Whether the pattern is matched against the command line instead of the comm."""
        return len(self.pieces) > 2 and not self.pieces[0] and not self.pieces[-1]

    def matches(self, text: str) -> bool:
        """Return whether the text has all pieces in order, the first at its beginning and the last at its end."""
        first, *middle, last = self.pieces
        position, end = len(first), len(text) - len(last)
        if position > end or not (text.startswith(first) and text.endswith(last)):
            return False
        for piece in middle:
            position = text.find(piece, position, end)
            if position < 0:
                return False
            position += len(piece)
        return True


@dataclass(frozen=True, slots=True)
class _Scan:
    """A pattern that no index covers. Such patterns are tried one after the other.

    `longest_piece` allows a quick check: text without it cannot match.
    """

    rank: _Rank
    pattern: Pattern
    longest_piece: str
    matches_command_line: bool


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a file. A process belongs to the group of the first pattern that matches.

    `names` are the groups in the order of the file. `problems` are messages about unusable lines, with the file name
    and the line number. `needs_command_line` is whether any pattern is matched against the command line.
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
        """Return the groups of a file. Raises SettingsError if the file cannot be read."""
        try:
            text = read_text(path, errors="replace")  # programs may have names that are not UTF-8
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Return the groups in the text of a file. `source` is the file name to use in `problems`."""
        problems: list[str] = []
        rules: list[tuple[str, Pattern]] = []
        for number, line in enumerate(text.split("\n"), 1):
            try:
                group, words = _split(line.strip())
            except _InvalidLineError as error:
                problems.append(escaped(f"{source}:{number}: {error}"))
                continue
            rules += [(group, Pattern.parse(word)) for word in words]
        return cls._of(rules, problems)

    @classmethod
    def _of(cls, rules: list[tuple[str, Pattern]], problems: Iterable[str]) -> Self:
        exact: dict[str, _Rank] = {}
        prefixes: dict[str, _Rank] = {}
        suffixes: dict[str, _Rank] = {}
        scans: list[_Scan] = []
        for position, (group, pattern) in enumerate(rules):
            rank = (position, group)
            match pattern.pieces:
                case (whole,):
                    exact.setdefault(whole, rank)
                case (prefix, ""):
                    prefixes.setdefault(prefix, rank)
                case ("", suffix):
                    suffixes.setdefault(suffix, rank)
                case pieces:
                    scans.append(_Scan(rank, pattern, max(pieces, key=len), pattern.matches_command_line))
        return cls(
            names=tuple(dict.fromkeys(group for group, _ in rules)),
            problems=tuple(problems),
            needs_command_line=any(scan.matches_command_line for scan in scans),
            _exact=exact,
            _prefixes=prefixes,
            _suffixes=suffixes,
            _lengths=(_lengths(prefixes), _lengths(suffixes)),
            _scans=tuple(scans),
        )

    def match(self, comm: str, command_line: str) -> str | None:
        """Return the group of a process, or None if no pattern matches.

        `command_line` has the arguments joined by spaces. If it is empty, as for kernel threads, the comm replaces it.
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
            text = (command_line or comm) if scan.matches_command_line else comm
            if scan.longest_piece in text and scan.pattern.matches(text):
                return scan.rank[1]
        return best[1] if best else None


@functools.cache  # The daemon may become a user who cannot read the package.
def default_groups() -> Groups:
    """Return the groups of the file that comes with ebpfmon."""
    return Groups.read(DEFAULT_PATH)


def truncate_comm(name: str) -> str:
    """Return the first 15 bytes of a program's name, which is what the kernel keeps in comm."""
    return name.encode("utf-8", "replace")[:_COMM_BYTES].decode("utf-8", "replace")


class _InvalidLineError(Exception):
    """A line of the file cannot be used. The message says why."""


def _split(line: str) -> tuple[str, list[str]]:
    """Return the group of a line and its patterns. An empty line has no patterns."""
    if not line or line.startswith("#"):
        return "", []
    rest = line.lstrip(_FLAGS)
    if rest.startswith(('"', "'")):
        group, rest = _quoted(rest)
        after_quote, colon, rest = rest.partition(":")
    else:
        group, colon, rest = rest.partition(":")
        after_quote = ""
    if not colon or after_quote.strip() or "#" in group:
        raise _InvalidLineError(f"'{line}': expected 'group: pattern ...'")
    group = group.strip()
    if not group:
        raise _InvalidLineError(f"'{line}': the group has no name: expected 'group: pattern ...'")
    if group in _NETDATA_ONLY:
        raise _InvalidLineError(f"'{group}' has a meaning only in Netdata and is ignored; remove the line")
    words = list(_words(rest))
    if not words:
        raise _InvalidLineError(f"group '{group}' has no patterns")
    return group, words


def _words(rest: str) -> Iterator[str]:
    """Yield the patterns of a line. As in Netdata, a quote has a meaning only at the beginning of a word."""
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
    """Return the text in the quotes at the beginning, and the text after them."""
    quoted, closing, rest = text[1:].partition(text[0])
    if not closing:
        raise _InvalidLineError(f"{text}: the quote is not closed")
    return quoted, rest


def _unescaped(word: str) -> Iterable[str]:
    """Yield the pieces between the stars of a simple pattern."""
    piece, position = "", 0
    for match in _STAR.finditer(word):
        piece += word[position : match.start()] + (match[1] or "")
        position = match.end()
        if match[2]:
            yield piece
            piece = ""
    yield piece + word[position:]


def _lengths(texts: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted({len(text) for text in texts}))
