"""Accept connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

_ACCEPTS = 16
"""How many connections are accepted at a time."""
FLOOD_PAUSE_S = 0.02
"""How long no more are accepted if there was no room for all. This limits a flood to 800 connections a second."""
FAILURE_PAUSE_S = 0.1
"""How long nothing is accepted if descriptors or memory are short. New connections wait in the kernel."""

Admit = Callable[[socket.socket, Any, float], bool]


class Acceptor:
    """Accepts the connections of a listening socket.

    asyncio's own servers handle a connection only after its TLS handshake. If descriptors are short, they try again a
    hundred times in a row, and log each time.
    """

    def __init__(self, listening: socket.socket, admit: Admit, make_room: Callable[[float], object]) -> None:
        """Begin to accept.

        `admit` gets each new socket, its address, and the time (on the loop's clock) when the loop began to accept. It
        returns whether there was room. `make_room` gets the same time when descriptors or memory are short.
        """
        self._listening, self._admit, self._make_room = listening, admit, make_room
        self._is_closed = False
        listening.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Close the listening socket."""
        if not self._is_closed:
            self._is_closed = True
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()

    def _resume(self) -> None:
        if not self._is_closed:
            loop = asyncio.get_running_loop()
            # `call_soon`, so that all first bytes that have arrived are noted before other connections are accepted
            loop.add_reader(self._listening, loop.call_soon, self._accept)

    def _pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        loop.call_later(seconds, self._resume)

    def _accept(self) -> None:
        """Accept connections that wait."""
        since_s = asyncio.get_running_loop().time()
        is_flooded = False
        for _ in range(_ACCEPTS):
            if self._is_closed:
                return
            try:
                sock, address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionAbortedError:
                continue
            except OSError:
                self._make_room(since_s)
                self._pause(FAILURE_PAUSE_S)
                return
            sock.setblocking(False)
            is_flooded |= not self._admit(sock, address, since_s)
        if is_flooded:
            self._pause(FLOOD_PAUSE_S)
