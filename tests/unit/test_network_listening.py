"""The ports that have a listener, and the sockets of UDP servers."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from ebpfmon_network_viewer import listening as module
from ebpfmon_network_viewer.listening import Listening, ephemeral_ports, listening

EPHEMERAL = range(32768, 61000)
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
NO_PEER, NO_PEER_6 = "00000000:0000", "0" * 32 + ":0000"
LOOPBACK_6 = "00000000000000000000000001000000"


def line(local: str, remote: str, state: str, inode: int = 1075) -> str:
    rest = f"00000000:00000000 00:00000000 00000000     0        0 {inode} 1 00000000280bf58e 100 0 0 10 0"
    return f"   0: {local} {remote} {state} {rest}".ljust(149) + "\n"


def process(proc: Path, pid: int, namespace: int, **tables: list[str]) -> Path:
    """Make the /proc folder of a process, with the socket tables of its network namespace."""
    directory = proc / str(pid)
    (directory / "ns").mkdir(parents=True)
    (directory / "ns/net").symlink_to(f"net:[{namespace}]")
    (directory / "net").mkdir()
    for name, lines in tables.items():
        (directory / "net" / name).write_text(HEAD + "".join(lines))
    return directory


def test_tcp_listeners_of_both_families_are_found(tmp_path: Path) -> None:
    process(
        tmp_path, 1, 4026531840,
        tcp=[line("00000000:0016", NO_PEER, "0A"), line("0100007F:1F90", NO_PEER, "0A"),
             line("0100007F:0019", "0200007F:C350", "03"),  # SYN_RECV, listed here before Linux 4.4
             line("00000000:FFFF", NO_PEER, "0A"),
             line("0100007F:0017", "0200007F:C350", "01"), line("0100007F:0018", "0200007F:C350", "06")],
        tcp6=[line(f"{LOOPBACK_6}:0050", NO_PEER_6, "0A"), line("0" * 32 + ":0016", NO_PEER_6, "0A"),
              line(f"{LOOPBACK_6}:0051", f"{LOOPBACK_6}:C350", "01")],
    )  # fmt: skip
    expected = {(4026531840, port) for port in (22, 80, 8080, 65535)}
    assert listening(tmp_path, ephemeral=EPHEMERAL) == Listening(tcp=expected)


def test_a_tcp_table_is_read_only_up_to_the_last_listener(tmp_path: Path) -> None:
    lines = [line("00000000:0016", NO_PEER, "0A"), line("0100007F:0017", "0200007F:C350", "01"), "not read\n"]
    process(tmp_path, 1, 7, tcp=lines)
    assert listening(tmp_path, ephemeral=EPHEMERAL).tcp == {(7, 22)}


def test_unconnected_udp_sockets_outside_the_ephemeral_ports_are_servers(tmp_path: Path) -> None:
    process(
        tmp_path, 1, 7, tcp=[],
        udp=[line("00000000:0035", NO_PEER, "07", 53), line("0100007F:7FFF", NO_PEER, "07", 32767),
             line("0100007F:8000", NO_PEER, "07", 1), line("0100007F:EE47", NO_PEER, "07", 2),  # both ends of EPHEMERAL
             line("0100007F:EE48", NO_PEER, "07", 61000), line("0100007F:0044", "01000000:0043", "01", 3),
             line("0100007F:0045", "00000000:0043", "01", 4)],
        udp6=[line("0" * 32 + ":0222", NO_PEER_6, "07", 546),
              line(f"{LOOPBACK_6}:0223", f"{LOOPBACK_6}:0001", "01", 5)],
    )  # fmt: skip
    assert listening(tmp_path, ephemeral=EPHEMERAL) == Listening(udp={53, 32767, 61000, 546})
    assert listening(tmp_path, ephemeral=range(0)).udp == {53, 32767, 61000, 546, 1, 2}


def test_a_connected_udp_socket_is_a_servers_if_the_server_has_the_same_port(tmp_path: Path) -> None:
    udp = [line("00000000:01BB", "0200007F:C350", "01", 11), line("00000000:01BB", NO_PEER, "07", 12),
           line("00000000:01BC", "0200007F:C350", "01", 13)]  # fmt: skip
    process(tmp_path, 1, 7, tcp=[], udp=udp)
    process(tmp_path, 2, 8, tcp=[], udp=[line("00000000:01BB", "0200007F:C350", "01", 14)])
    assert listening(tmp_path, ephemeral=EPHEMERAL).udp == {11, 12}


def test_listeners_are_kept_by_network_namespace(tmp_path: Path) -> None:
    process(tmp_path, 1, 7, tcp=[line("00000000:0016", NO_PEER, "0A")])
    process(tmp_path, 2, 8, tcp=[line("00000000:0016", NO_PEER, "0A"), line("00000000:0050", NO_PEER, "0A")])
    assert listening(tmp_path, ephemeral=EPHEMERAL).tcp == {(7, 22), (8, 22), (8, 80)}


def test_a_network_namespace_is_read_once(tmp_path: Path) -> None:
    for port in range(1, 4):  # In reality, these tables are equal. Here they show which were read.
        process(tmp_path, port, 7, tcp=[line(f"00000000:000{port}", NO_PEER, "0A")])
    assert len(listening(tmp_path, ephemeral=EPHEMERAL).tcp) == 1


def test_a_process_that_goes_away_does_not_hide_its_namespace(tmp_path: Path) -> None:
    for pid in range(1, 5):
        process(tmp_path, pid, 7)  # without tables
    *_, last = tmp_path.iterdir()
    (last / "net/tcp").write_text(HEAD + line("00000000:0016", NO_PEER, "0A"))
    (tmp_path / "6").mkdir()  # without ns/net
    strange = process(tmp_path, 5, 8, tcp=[line("00000000:0050", NO_PEER, "0A")])
    (strange / "ns/net").unlink()
    (strange / "ns/net").symlink_to("unexpected")
    (tmp_path / "net").mkdir()
    (tmp_path / "uptime").write_text("1")
    assert listening(tmp_path, ephemeral=EPHEMERAL).tcp == {(7, 22)}


def test_without_ipv6_the_other_tables_are_still_read(tmp_path: Path) -> None:
    process(tmp_path, 1, 7, tcp=[], udp=[line("00000000:0035", NO_PEER, "07", 53)])
    assert listening(tmp_path, ephemeral=EPHEMERAL).udp == {53}


def test_the_numbers_of_listeners_and_servers_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, namespace in ((1, 7), (2, 8)):
        process(
            tmp_path, pid, namespace, tcp=[line(f"00000000:{port:04X}", NO_PEER, "0A") for port in range(1, 14)],
            udp=[line(f"00000000:{port:04X}", NO_PEER, "07", 100 * pid + port) for port in range(1, 14)],
        )  # fmt: skip

    def sizes() -> tuple[int, int]:
        found = listening(tmp_path, ephemeral=EPHEMERAL)
        return len(found.tcp), len(found.udp)

    assert sizes() == (26, 26)
    monkeypatch.setattr(module, "MAX_LISTENERS", 17)
    monkeypatch.setattr(module, "MAX_SERVERS", 11)
    assert sizes() == (17, 11)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize("method", ["readlink", "open", "iterdir"])
def test_a_lack_of_descriptors_or_memory_hides_no_listener_but_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, error: int
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(error, "too few")

    process(tmp_path, 1, 7, tcp=[line("00000000:0016", NO_PEER, "0A")])
    with monkeypatch.context() as patched:
        patched.setattr(Path, method, fails)
        with pytest.raises(OSError, match="too few"):
            listening(tmp_path, ephemeral=EPHEMERAL)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", fails)
        with pytest.raises(OSError, match="too few"):
            ephemeral_ports(tmp_path)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_real_tcp_socket_is_found_while_it_listens(family: socket.AddressFamily) -> None:
    own = int(str(Path("/proc/self/ns/net").readlink())[5:-1])
    with socket.socket(family, socket.SOCK_STREAM) as server:
        try:
            server.bind(("localhost" if family == socket.AF_INET else "::1", 0))
        except OSError as error:
            pytest.skip(f"this system has no {family.name}: {error}")
        port = server.getsockname()[1]
        assert (own, port) not in listening(ephemeral=range(0)).tcp
        server.listen()
        assert (own, port) in listening(ephemeral=range(0)).tcp


def test_a_real_udp_socket_is_found_until_it_is_connected() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port, inode = server.getsockname()[1], os.fstat(server.fileno()).st_ino
        assert inode in listening(ephemeral=range(0)).udp
        assert inode not in listening(ephemeral=range(port, port + 1)).udp
        server.connect(("127.0.0.1", 9))
        assert inode not in listening(ephemeral=range(0)).udp


def test_the_ephemeral_ports_are_read_from_proc(tmp_path: Path) -> None:
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
