"""A dictionary of bounded size that forgets what was not used recently."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps at least the `bound` entries that were used last, and at most twice as many. `forgotten` counts the rest.

    It has two dictionaries. An entry that is used moves into the younger one. When that is full, the older one is
    dropped and the younger one takes its place. That costs less per use than keeping all entries in order.
    """

    def __init__(self, bound: int) -> None:
        self.bound, self.forgotten = bound, 0
        self.young: dict[K, V] = {}
        """The entries used last, for looking up many keys at once. `get` may know a key that is not here."""
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def __contains__(self, key: object) -> bool:
        return key in self.young or key in self._old

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None if there is none or it was forgotten."""
        value = self.young.get(key)
        if value is None and key in self._old:
            value = self._old.pop(key)
            self[key] = value
        return value

    def __setitem__(self, key: K, value: V) -> None:
        self._old.pop(key, None)
        if len(self.young) >= self.bound and key not in self.young:
            self.forgotten += len(self._old)
            self._old, self.young = self.young, {}
        self.young[key] = value

    def drop(self, values: frozenset[V]) -> None:
        """Remove all entries that have one of these values."""
        self.young = {k: v for k, v in self.young.items() if v not in values}
        self._old = {k: v for k, v in self._old.items() if v not in values}
