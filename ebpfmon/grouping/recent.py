"""A dictionary that forgets what was not used for long."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps at least the `bound` entries that were used last, at most twice as many; `forgotten` counts the others.

    Two dictionaries: what is used goes into the younger one. When that is full the older one is dropped, and the
    younger one takes its place.
    """

    def __init__(self, bound: int) -> None:
        self.bound, self.forgotten = bound, 0
        self.young: dict[K, V] = {}
        """What was used last: to look many keys up at once. What is not here may still be known to `get`."""
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def __contains__(self, key: object) -> bool:
        return key in self.young or key in self._old

    def get(self, key: K) -> V | None:
        """The value of a key, None if it is not known (any more)."""
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
        """Forget all entries with one of these values."""
        self.young = {k: v for k, v in self.young.items() if v not in values}
        self._old = {k: v for k, v in self._old.items() if v not in values}
