"""Bytes from a terminal to keys: characters, and names for what is none. Pure."""

from __future__ import annotations

import codecs
import re

_CONTROLS = {"\r": "enter", "\n": "enter", "\x1b": "escape", "\x7f": "backspace", "\b": "backspace", "\x03": "ctrl-c"}
_ENDS = {"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end"}
_NUMBERS = {"1": "home", "4": "end", "5": "pgup", "6": "pgdn", "7": "home", "8": "end"}
# CSI and SS3, and the Linux console's own for its function keys, which would leave a letter behind
_SEQUENCE = re.compile(r"\x1b(?:\[\[[A-E]|\[([0-?]*)[ -/]*([@-Z\\-~])|O([0-?]*)([@-~]))")
_BEGUN = re.compile(r"\x1b(?:\[(?:\[|[0-?]*[ -/]*)?|O[0-?]*)?")
_LONGEST = 32  # no key is longer


class Keys:
    """Puts together what comes in pieces. The Escape key is a sequence that does not go on: who reads says when."""

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8")("ignore")
        self._begun = ""

    @property
    def waiting(self) -> bool:
        """Whether a sequence has begun that may go on."""
        return bool(self._begun)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete with these bytes, as `state.press` takes them."""
        text, keys, at = self._begun + self._text.decode(data), [], 0
        self._begun = ""
        while at < len(text):
            if sequence := _SEQUENCE.match(text, at):
                at = sequence.end()
                if key := _named(sequence):
                    keys.append(key)
            elif (begun := _BEGUN.fullmatch(text, at)) and len(text) - at <= _LONGEST:
                self._begun = begun.group()
                break
            else:
                c = text[at]
                at += 1
                if c in _CONTROLS or c.isprintable():
                    keys.append(_CONTROLS.get(c, c))
        return keys

    def flush(self) -> list[str]:
        """Nothing came for a while: what has begun was the Escape key, or the rest of it is lost."""
        alone, self._begun = self._begun == "\x1b", ""
        return ["escape"] if alone else []


def _named(sequence: re.Match[str]) -> str | None:
    parameters, end = sequence[1] or sequence[3] or "", sequence[2] or sequence[4]
    if end == "~":
        return _NUMBERS.get(parameters.partition(";")[0])
    return _ENDS.get(end)
