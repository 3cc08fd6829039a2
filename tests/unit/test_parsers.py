"""The parsers of the sinks and of their settings accept or refuse any input, and raise only the expected errors.

Names and quotes of each backend, groups, selectors, queries and headers are tested with their modules.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ebpfmon import SettingsError, SinkError, Snapshot, config, to_json
from ebpfmon.pipeline.selection import ChartFilter
from ebpfmon.plugins import registry
from ebpfmon_sinks.http_common import read_token
from ebpfmon_sinks.http_json import middlewares
from ebpfmon_sinks.http_json.settings import HttpJsonSettings
from ebpfmon_sinks.plugins_d import relay
from ebpfmon_sinks.plugins_d import sink as plugins_d
from ebpfmon_sinks.statsd.settings import StatsdSettings
from tests.unit.test_json import SNAPSHOTS

FOUND = registry.discover()
ANYTHING = st.text(max_size=40)


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return the data in the pieces in which it may arrive."""
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(at)]


@given(ANYTHING | st.integers(-9, 10**9).map(str))
@example("²")
@example("१")
@example("")
def test_the_relay_reads_any_argument_as_a_valid_number_of_seconds(argument: str) -> None:
    seconds = relay._seconds(argument)
    assert 1 <= seconds <= 86400
    if re.fullmatch(r"[0-9]+", argument):
        assert seconds == min(max(int(argument), 1), 86400)


class _Relay(relay.Relay):
    """A relay that always has data to read, and keeps what it writes."""

    def __init__(self, fd: int) -> None:
        super().__init__("", 1)
        self.fd = fd
        self.written: list[bytes] = []
        self._connected = True

    def _wait(self, seconds: float) -> dict[int, int]:
        return {self.fd: 1}

    def _write(self, data: bytes) -> None:
        self.written.append(data)


class _FakeSocket:
    """A socket that receives these pieces, and then the end."""

    def __init__(self, fd: int, pieces: list[bytes]) -> None:
        self._fd, self._pieces = fd, pieces

    def fileno(self) -> int:
        return self._fd

    def recv(self, most: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


@given(st.lists(st.binary(max_size=9) | st.just(b"\n")).map(b"".join), st.lists(st.integers(0, 99)))
def test_the_relay_copies_exactly_the_complete_lines_however_they_arrive(data: bytes, cuts: list[int]) -> None:
    fds = os.pipe()
    made = _Relay(fds[0])
    try:
        made._copy(_FakeSocket(fds[0], [p for p in pieces_of(data, cuts) if p]))  # type: ignore[arg-type]
    finally:
        for fd in fds:
            os.close(fd)
    assert b"".join(made.written) == data[: data.rfind(b"\n") + 1]
    assert all(not part or part.endswith(b"\n") for part in made.written)


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.is_cut = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.is_cut = True


HELLO = st.sampled_from([b"every 1\n", b"every 86400\n", b"every 0\n", b"every 1", b"every \n", b"every 1 \nx", b"\n"])


@given(HELLO | st.binary(max_size=90), st.lists(st.integers(0, 99)))
def test_a_client_that_does_not_request_an_interval_is_disconnected(hello: bytes, cuts: list[int]) -> None:
    async def run() -> None:
        transport, readers = _Transport(), set[Any]()
        made = plugins_d._Relay("plugins_d", readers)
        made.connection_made(transport)
        for piece in pieces_of(hello, cuts):
            if not transport.is_cut:
                made.data_received(piece)
        found = re.match(rb"every [1-9][0-9]{0,4}\n", hello)
        assert bool(made._stream) is bool(found)
        assert transport.is_cut is (not found and (b"\n" in hello or len(hello) > plugins_d._HELLO_BYTES))
        made.connection_lost(None)
        assert not readers

    asyncio.run(run())


@given(st.binary(max_size=60) | st.text("ab!~ \n\t", max_size=9).map(str.encode))
def test_a_token_is_one_printable_word_and_other_content_is_never_shown(text: bytes) -> None:
    with TemporaryDirectory() as where:
        path = Path(where) / "token"
        path.write_bytes(text)
        try:
            token = read_token(str(path))
        except SinkError as error:
            message = str(error)
            assert message == f"cannot read the token in '{path}': expected one line of printable ASCII without spaces"
            assert len(text.split()) != 1 or not re.fullmatch(rb"[!-~]+", text.strip())
        else:
            assert token.encode() == text.strip()
            assert re.fullmatch("[!-~]+", token)


PORT = st.just("") | st.integers(0, 65535).map(":{}".format)
ADDRESS = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map("[{}]".format) | st.just("localhost")


@given(ADDRESS, PORT)
def test_a_host_header_may_be_any_address_or_localhost_with_any_port(host: str, port: str) -> None:
    assert middlewares._is_address(host + port)


@given(st.from_regex(r"[a-z0-9-]{0,9}[g-z][a-z0-9-]{0,9}(\.[a-z0-9-]{1,9}){0,3}\.?", fullmatch=True), PORT)
@example("127.0.0.1.evil.example", "")
@example("localhost.evil.example", "")
def test_a_host_header_with_another_name_is_not_an_address(name: str, port: str) -> None:
    assert not middlewares._is_address(name + port) or name == "localhost"


@given(ANYTHING)
@example("[::1")
@example("localhost:x")
@example("@127.0.0.1")
def test_any_host_header_can_be_checked(host: str) -> None:
    assert middlewares._is_address(host) in (True, False)


PATTERN = st.text("ab.*_-", min_size=1, max_size=5)


@given(st.lists(st.tuples(st.booleans(), PATTERN), max_size=4), st.text("ab._-", max_size=5))
def test_a_chart_is_selected_if_a_pattern_includes_it_and_none_excludes_it(
    patterns: list[tuple[bool, str]], chart: str
) -> None:
    def fits(pattern: str) -> bool:
        return bool(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), chart))

    included = [fits(pattern) for excludes, pattern in patterns if not excludes]
    excluded = [fits(pattern) for excludes, pattern in patterns if excludes]
    chosen = ChartFilter([f"!{pattern}" if excludes else pattern for excludes, pattern in patterns])
    assert (chart in chosen) is ((any(included) or not included) and not any(excluded))


@given(ANYTHING)
def test_a_chart_pattern_is_valid_or_named_in_the_error(pattern: str) -> None:
    try:
        ChartFilter([pattern])
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"'{pattern}': expected")
    else:
        assert re.fullmatch(r"!?[\w.*-]+", pattern)


KEYS = st.sampled_from(sorted({key for kind in FOUND.sinks.values() for key in kind.__struct_fields__}))
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANYTHING | st.lists(ANYTHING, max_size=2)
    | st.dictionaries(ANYTHING, ANYTHING, max_size=2)
    | st.sampled_from(["http://x/", "https://[::1", "http://a@b/", "/x", "-", "0.0.0.0", "::1", "tcp", "ndjson", "!x"])
)  # fmt: skip


@given(st.sampled_from(sorted(FOUND.sinks)) | ANYTHING, st.dictionaries(KEYS | ANYTHING, VALUES, max_size=4))
def test_any_sink_section_is_valid_or_refused_in_one_line_that_names_the_file(kind: str, sink: dict[str, Any]) -> None:
    try:
        settings = config.validate({"sinks": [{**sink, "type": kind}]}, "x.toml", FOUND)
    except SettingsError as error:
        message = str(error)
        assert message.startswith("x.toml: sinks")
        assert message.isprintable()
    else:
        assert type(settings.sinks[0]) is FOUND.sinks[kind]


@given(st.ip_addresses() | st.from_regex(r"[a-z]{1,9}(\.[a-z]{1,9}){0,2}", fullmatch=True))
@example("::ffff:127.0.0.1")
@example("localhost")
@example("LOCALHOST")
@example("127.0.0.1.example")
def test_without_a_token_and_tls_only_loopback_is_served(host: object) -> None:
    of = str(host)
    local = of.lower() == "localhost" or bool(re.fullmatch(r"127\.\d+\.\d+\.\d+|::1|::ffff:7f.*|::ffff:127.*", of))
    if local:
        assert HttpJsonSettings(host=of).is_local
        return
    with pytest.raises(ValueError, match="so set token_file and tls_certificate and tls_key"):
        HttpJsonSettings(host=of)
    assert HttpJsonSettings(host=of, insecure=True).host == of


@given(ANYTHING | st.from_regex(r"[a-zA-Z0-9_.-]{0,41}", fullmatch=True))
def test_a_prefix_must_be_parts_separated_by_single_dots(prefix: str) -> None:
    raw = {"type": "statsd", "prefix": prefix}
    right = len(prefix) <= 40 and (
        not prefix or all(re.fullmatch(r"[A-Za-z0-9_-]+", part, re.A) for part in prefix.split("."))
    )
    try:
        settings = msgspec.convert(raw, StatsdSettings)
    except msgspec.ValidationError:
        assert not right
    else:
        assert right
        assert settings.prefix == prefix


@given(SNAPSHOTS)
def test_the_json_of_a_snapshot_decodes_to_the_same_values(given_snapshot: Snapshot) -> None:
    written = to_json(given_snapshot)
    line = msgspec.json.encode(written)
    assert json.loads(line) == json.loads(json.dumps(msgspec.to_builtins(written)))
    assert msgspec.json.decode(line) == json.loads(line)
