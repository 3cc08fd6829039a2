"""A dictionary of bounded size that forgets the entries that were not used recently."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A dictionary that keeps at least the `bound` most recently used entries, and at most twice as many.

    `forgotten` counts the entries that were dropped. There are two dictionaries inside. Using an entry moves it into
    the young one. When that is full, it replaces the old one, whose entries are dropped. This costs less per use than
    keeping all entries in order, as an LRU cache does.
    """

    def __init__(self, bound: int) -> None:
        self.bound, self.forgotten = bound, 0
        self.young: dict[K, V] = {}
        """The most recently used entries, for bulk lookups. Some keys are not here, but `get` still finds them."""
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def __contains__(self, key: object) -> bool:
        return key in self.young or key in self._old

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None if it was never set or has been forgotten."""
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
