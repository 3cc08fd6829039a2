"""The ports that somebody listens on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ebpfmon_network_viewer import listening as module
from ebpfmon_network_viewer.listening import TCP, UDP, ephemeral_ports, listening

EPHEMERAL = range(32768, 61000)
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
NOBODY, NOBODY_6 = "00000000:0000", "0" * 32 + ":0000"
LOOPBACK_6 = "00000000000000000000000001000000"


def line(local: str, remote: str, state: str) -> str:
    rest = "00000000:00000000 00:00000000 00000000     0        0 1075 1 00000000280bf58e 100 0 0 10 0"
    return f"   0: {local} {remote} {state} {rest}".ljust(149) + "\n"


def process(proc: Path, pid: int, namespace: int, **tables: list[str]) -> Path:
    """A process as /proc has it, with the socket tables of its network namespace."""
    directory = proc / str(pid)
    (directory / "ns").mkdir(parents=True)
    (directory / "ns/net").symlink_to(f"net:[{namespace}]")
    (directory / "net").mkdir()
    for name, lines in tables.items():
        (directory / "net" / name).write_text(HEAD + "".join(lines))
    return directory


def test_tcp_sockets_that_listen_are_found_of_both_families(tmp_path: Path) -> None:
    process(
        tmp_path, 1, 4026531840,
        tcp=[line("00000000:0016", NOBODY, "0A"), line("0100007F:1F90", NOBODY, "0A"),
             line("0100007F:0019", "0200007F:C350", "03"),  # asks to be taken; it stood here before Linux 4.4
             line("00000000:FFFF", NOBODY, "0A"),
             line("0100007F:0017", "0200007F:C350", "01"), line("0100007F:0018", "0200007F:C350", "06")],
        tcp6=[line(f"{LOOPBACK_6}:0050", NOBODY_6, "0A"), line("0" * 32 + ":0016", NOBODY_6, "0A"),
              line(f"{LOOPBACK_6}:0051", f"{LOOPBACK_6}:C350", "01")],
    )  # fmt: skip
    expected = {(4026531840, TCP, port) for port in (22, 80, 8080, 65535)}
    assert listening(tmp_path, ephemeral=EPHEMERAL) == expected


def test_after_those_that_listen_a_table_of_tcp_is_not_read_on(tmp_path: Path) -> None:
    lines = [line("00000000:0016", NOBODY, "0A"), line("0100007F:0017", "0200007F:C350", "01"), "not read\n"]
    process(tmp_path, 1, 7, tcp=lines)
    assert listening(tmp_path, ephemeral=EPHEMERAL) == {(7, TCP, 22)}


def test_udp_sockets_listen_that_have_no_peer_and_a_port_of_their_own_choice(tmp_path: Path) -> None:
    process(
        tmp_path, 1, 7, tcp=[],
        udp=[line("00000000:0035", NOBODY, "07"), line("0100007F:7FFF", NOBODY, "07"),
             line("0100007F:8000", NOBODY, "07"), line("0100007F:EE47", NOBODY, "07"),  # the first and the last
             line("0100007F:EE48", NOBODY, "07"), line("0100007F:0044", "01000000:0043", "01"),
             line("0100007F:0045", "00000000:0043", "01")],
        udp6=[line("0" * 32 + ":0222", NOBODY_6, "07"), line(f"{LOOPBACK_6}:0223", f"{LOOPBACK_6}:0001", "01")],
    )  # fmt: skip
    assert listening(tmp_path, ephemeral=EPHEMERAL) == {(7, UDP, port) for port in (53, 32767, 61000, 546)}
    assert (7, UDP, 32768) in listening(tmp_path, ephemeral=range(0))


def test_each_network_namespace_is_apart(tmp_path: Path) -> None:
    process(tmp_path, 1, 7, tcp=[line("00000000:0016", NOBODY, "0A")])
    process(tmp_path, 2, 8, tcp=[line("00000000:0016", NOBODY, "0A"), line("00000000:0050", NOBODY, "0A")])
    assert listening(tmp_path, ephemeral=EPHEMERAL) == {(7, TCP, 22), (8, TCP, 22), (8, TCP, 80)}


def test_a_network_namespace_is_read_once(tmp_path: Path) -> None:
    for port in range(1, 4):  # it would be the same table; here it tells whose was read
        process(tmp_path, port, 7, tcp=[line(f"00000000:000{port}", NOBODY, "0A")])
    assert len(listening(tmp_path, ephemeral=EPHEMERAL)) == 1


def test_a_process_that_goes_away_hides_nothing(tmp_path: Path) -> None:
    for pid in range(1, 5):
        process(tmp_path, pid, 7)  # without tables
    *_, last = tmp_path.iterdir()
    (last / "net/tcp").write_text(HEAD + line("00000000:0016", NOBODY, "0A"))
    (tmp_path / "6").mkdir()  # without ns/net
    strange = process(tmp_path, 5, 8, tcp=[line("00000000:0050", NOBODY, "0A")])
    (strange / "ns/net").unlink()
    (strange / "ns/net").symlink_to("what is this")
    (tmp_path / "net").mkdir()
    (tmp_path / "uptime").write_text("1")
    assert listening(tmp_path, ephemeral=EPHEMERAL) == {(7, TCP, 22)}


def test_without_ipv6_the_other_tables_are_still_read(tmp_path: Path) -> None:
    process(tmp_path, 1, 7, tcp=[], udp=[line("00000000:0035", NOBODY, "07")])
    assert listening(tmp_path, ephemeral=EPHEMERAL) == {(7, UDP, 53)}


def test_there_are_never_more_than_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process(tmp_path, 1, 7, tcp=[line(f"00000000:{port:04X}", NOBODY, "0A") for port in range(1, 14)])
    process(tmp_path, 2, 8, tcp=[line(f"00000000:{port:04X}", NOBODY, "0A") for port in range(1, 14)])
    assert len(listening(tmp_path, ephemeral=EPHEMERAL)) == 26
    monkeypatch.setattr(module, "MOST", 17)
    assert len(listening(tmp_path, ephemeral=EPHEMERAL)) == 17


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_socket_of_this_process_is_found_while_it_listens(family: socket.AddressFamily) -> None:
    own = int(str(Path("/proc/self/ns/net").readlink())[5:-1])
    with socket.socket(family, socket.SOCK_STREAM) as server:
        try:
            server.bind(("localhost" if family == socket.AF_INET else "::1", 0))
        except OSError as error:
            pytest.skip(f"this system has no {family.name}: {error}")
        port = server.getsockname()[1]
        assert (own, TCP, port) not in listening(ephemeral=range(0))
        server.listen()
        assert (own, TCP, port) in listening(ephemeral=range(0))


def test_a_udp_socket_of_this_process_is_found_until_it_has_a_peer() -> None:
    own = int(str(Path("/proc/self/ns/net").readlink())[5:-1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert (own, UDP, port) in listening(ephemeral=range(0))
        assert (own, UDP, port) not in listening(ephemeral=range(port, port + 1))
        server.connect(("127.0.0.1", 9))
        assert (own, UDP, port) not in listening(ephemeral=range(0))


def test_the_ephemeral_ports_are_those_of_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "sys/net/ipv4/ip_local_port_range"
    assert ephemeral_ports(tmp_path) == range(32768, 61000)
    path.parent.mkdir(parents=True)
    path.write_text("1024\t2000\n")
    assert ephemeral_ports(tmp_path) == range(1024, 2001)
    for nonsense in ("", "1024\n", "a b\n", "1 2 3\n"):
        path.write_text(nonsense)
        assert ephemeral_ports(tmp_path) == range(32768, 61000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname()[1] in ephemeral_ports()
