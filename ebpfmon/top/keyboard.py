"""Convert the bytes that a keyboard sends to names of keys. Pure: the caller does the I/O and the timing."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from blessed import Terminal
from blessed.keyboard import get_keyboard_codes

_NAMES = {
    "KEY_BACKSPACE": "backspace",
    "KEY_DOWN": "down",
    "KEY_END": "end",
    "KEY_ENTER": "enter",
    "KEY_ESCAPE": "escape",
    "KEY_HOME": "home",
    "KEY_LEFT": "left",
    "KEY_PGDOWN": "pgdn",
    "KEY_PGUP": "pgup",
    "KEY_RIGHT": "right",
    "KEY_UP": "up",
}
_KEYS = {code: _NAMES[name] for code, name in get_keyboard_codes().items() if name in _NAMES}
# The escape sequences of terminals: CSI, the Linux console's variant of CSI for function keys, and SS3.
_BEGINNING = r"\x1b(?:\[\[?[0-?]*[ -/]*|O[0-?]*)"
_UNFINISHED = re.compile(rf"{_BEGINNING}|\x1b")
_FINISHED = re.compile(rf"{_BEGINNING}[@-~]")
_LONGEST = 32  # characters; no key sends more


class Keyboard:
    """Decodes keys from bytes that arrive in pieces.

    blessed knows which sequences a terminal sends. It does not read the bytes itself, because it would block the event
    loop while it waits for the rest of a sequence. The caller calls `flush` when no more bytes have arrived.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._text = ""

    @property
    def has_partial_key(self) -> bool:
        """Whether the last bytes may be the beginning of a key."""
        return bool(self._text)

    def feed(self, data: bytes) -> list[str]:
        """Return the keys that are complete with these bytes, named as `state.press` expects them."""
        self._text += self._decoder.decode(data)
        return [*self._decode(is_final=False)]

    def flush(self) -> list[str]:
        """Return the keys in the remaining bytes. A lone Escape is the Escape key; any other partial key is dropped."""
        return [*self._decode(is_final=True)]

    def _decode(self, *, is_final: bool) -> Iterator[str]:
        while self._text:
            key, length = self._first()
            if not length:
                if not is_final and len(self._text) <= _LONGEST:
                    return
                key, length = "escape" if self._text == "\x1b" else None, len(self._text)
            self._text = self._text[length:]
            if key:
                yield key

    def _first(self) -> tuple[str | None, int]:
        """Return the first key of the text and its length.

        The key is None if it has no meaning. The length is 0 if the key may be incomplete.
        """
        self._terminal.ungetch(self._text[:_LONGEST])
        keystroke = self._terminal.inkey(timeout=0, esc_delay=0)
        self._terminal.flushinp()
        if keystroke[0] != "\x1b" or (keystroke.code is not None and len(keystroke) > 1):
            key = "ctrl-c" if keystroke == "\x03" else _KEYS.get(keystroke.code or 0)
            return key or (str(keystroke) if keystroke.isprintable() else None), len(keystroke)
        if _UNFINISHED.fullmatch(self._text):
            return None, 0
        if sequence := _FINISHED.match(self._text):  # a key that blessed does not know; its letters are not keys
            return None, sequence.end()
        return "escape", 1
