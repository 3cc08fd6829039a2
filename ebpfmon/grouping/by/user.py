"""Group processes by user."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice

from ebpfmon.grouping.lookup import LookupRequest, LookupResult
from ebpfmon.grouping.naming import REMEMBERED, Identity, LookupNaming
from ebpfmon.grouping.registry import Grouping

ASK_AGAIN_S = 60.0
"""How long to show the uid of a user without a name before the user database is asked again."""
_MAX_ASKED_AGAIN = 16  # users in one interval


class ByUser(LookupNaming):
    """Names a process by its user name, or by its uid as long as there is no name.

    The user database is asked again from time to time, because it may be on the network. While it cannot be reached, it
    may answer that a user has no name.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(lambda process: process.uid)
        self._clock = clock
        self._nameless: dict[int, float] = {}
        """When to ask again for each user without a name, in this order."""

    def request(self, new: Sequence[Identity]) -> LookupRequest:
        now = self._clock()
        again = [uid for uid, due_s in islice(self._nameless.items(), _MAX_ASKED_AGAIN) if due_s <= now]
        return LookupRequest(users=tuple(dict.fromkeys((*self.missing(new), *again))))

    def receive(self, result: LookupResult) -> bool:
        is_changed = False
        for uid, name in result.users.items():
            was_nameless = self._nameless.pop(uid, None) is not None
            if name is None:
                self._nameless[uid] = self._clock() + ASK_AGAIN_S
                if len(self._nameless) > REMEMBERED:
                    del self._nameless[next(iter(self._nameless))]
            elif was_nameless:
                is_changed = True
        self.keep({uid: name or str(uid) for uid, name in result.users.items()})
        return is_changed


GROUPING = Grouping(name="user", prefix="users", make=lambda _: ByUser(), position=30)
