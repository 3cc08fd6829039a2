"""Helpers for http_json and http_push: calls with a time limit, tokens and loopback addresses."""

from __future__ import annotations

import functools
import logging
import os
import re
import ssl
import stat
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, ip_address
from typing import TypeVar

from ebpfmon import SinkError
from ebpfmon_sinks.blocking import within

T = TypeVar("T")

ANSWER_S = 3.0
"""How long files and name servers may take to answer."""
_TOKEN = re.compile(rb"[!-~]+")
_MAX_TOKEN_BYTES = 4096
_log = logging.getLogger(__name__)


async def in_time(failure: str, function: Callable[..., T], *arguments: Hashable) -> T:
    """Return what a blocking function returns. Raises what it raises, or SinkError if it takes more than ANSWER_S.

    The error begins with `failure`.
    """
    try:
        return await within(ANSWER_S, function, *arguments)
    except TimeoutError:
        raise SinkError(f"{failure}: no answer within {ANSWER_S:g} s") from None


def reason_of(error: OSError) -> str:
    """Return why a connection or a name failed, without addresses, numbers and names of functions."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"cannot verify the certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):  # its errno is not one of the kernel
        return f"TLS error: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


async def read_token_in_time(path: str) -> str:
    """Return the token in a file, as `read_token` does. Raises SinkError."""
    return await in_time(f"cannot read the token in '{path}'", read_token, path)


def read_token(path: str) -> str:
    """Return the token in a file, which must be its only line. Blocking. Raises SinkError."""
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(_MAX_TOKEN_BYTES + 1).strip()
    except OSError as error:
        raise SinkError(f"cannot read the token in '{path}': {error.strerror}") from None
    if not _TOKEN.fullmatch(text) or len(text) > _MAX_TOKEN_BYTES:
        raise SinkError(f"cannot read the token in '{path}': expected one line of printable ASCII without spaces")
    if mode & stat.S_IROTH:
        _warn_of_readers(path, mode)
    return text.decode()


@functools.cache  # once for each file and mode, although the file is read again and again
def _warn_of_readers(path: str, mode: int) -> None:
    _log.warning("every user can read the token in '%s' (mode %04o); run 'chmod 600 %s'", path, mode, path)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address. It is False for all host names except localhost."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback
