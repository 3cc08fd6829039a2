"""The events of the network viewer, each with its candidate programs in `network_viewer.bpf.c` and its headers."""

from ebpfmon import Candidate, Event


def _transfer(name: str, function: str, arguments: int, tracepoint: str) -> Event:
    """Return the event of a send or a receive. A kprobe stores the arguments, because a kretprobe has none."""
    return Event(
        name,
        (
            Candidate(programs=(f"{function}_fexit",), arguments=arguments),
            Candidate(programs=(f"{function}_kprobe", f"{function}_kretprobe")),
            Candidate(programs=(f"{tracepoint}_tp_btf",), setting=f"raw_counts_{name}"),
            Candidate(programs=(f"{tracepoint}_tp",), setting=f"classic_counts_{name}"),
        ),
    )


def _at_exit(count: str) -> tuple[Candidate, Candidate]:
    """Return the candidates at the exit of system calls. `count` names the settings that make them count the event."""
    return (
        Candidate(programs=("sys_exit_tp_btf",), setting=f"raw_counts_{count}"),
        Candidate(programs=("sys_exit_tp",), setting=f"classic_counts_{count}"),
    )


EVENTS = (
    Event(
        "datagram",
        (
            Candidate(programs=("skb_consume_udp_fentry",)),
            Candidate(programs=("skb_consume_udp_kprobe",)),
            *_at_exit("datagram"),
        ),
    ),
    _transfer("send_ipv4", "inet_sendmsg", 3, "sock_send_length"),
    _transfer("send_ipv6", "inet6_sendmsg", 3, "sock_send_length"),
    _transfer("receive_ipv4", "inet_recvmsg", 4, "sock_recv_length"),
    _transfer("receive_ipv6", "inet6_recvmsg", 4, "sock_recv_length"),
    Event(
        "sendfile",
        (
            Candidate(programs=("inet_sendpage_fexit",), arguments=5),
            Candidate(programs=("inet_sendpage_kprobe", "inet_sendpage_kretprobe")),
        ),
        optional=True,  # Kernels without this function call sendmsg instead.
    ),
    Event(
        "splice",
        (
            Candidate(programs=("tcp_splice_read_fexit",), arguments=5),
            Candidate(programs=("tcp_splice_read_kprobe", "tcp_splice_read_kretprobe")),
            *_at_exit("splice"),
        ),
    ),
    Event(
        "tcp_state",
        (
            Candidate(programs=("inet_sock_set_state_tp_btf",), softirq=True),
            Candidate(programs=("inet_sock_set_state_tp",)),
            Candidate(programs=("tcp_set_state_fentry",)),
            Candidate(programs=("tcp_set_state_kprobe",)),
        ),
    ),
    Event(
        "tcp_accept",
        (
            Candidate(programs=("inet_csk_accept_fexit",), arguments=2),
            Candidate(programs=("inet_csk_accept_old_fexit",), arguments=4),
            Candidate(programs=("inet_csk_accept_kretprobe",)),
            *_at_exit("accept"),
        ),
    ),
    Event(
        "tcp_close",
        (
            Candidate(programs=("tcp_close_fentry",)),
            Candidate(programs=("tcp_close_kprobe",)),
            Candidate(programs=("tcp_destroy_sock_tp_btf",), softirq=True),
            Candidate(programs=("tcp_destroy_sock_tp",)),
        ),
    ),
    # This comes after tcp_close, which needs the owner of the socket, because programs run in the order of attachment.
    Event(
        "socket_gone",
        (
            Candidate(programs=("forget_socket_tp_btf",), softirq=True),
            Candidate(programs=("forget_socket_tp",)),
            Candidate(programs=("tcp_v4_destroy_sock_fentry",)),
            Candidate(programs=("tcp_v4_destroy_sock_kprobe",)),
        ),
    ),
    Event(
        "tcp_retransmit",
        (
            Candidate(programs=("tcp_retransmit_skb_tp_btf",), arguments=3, softirq=True),
            Candidate(programs=("tcp_retransmit_skb_old_tp_btf",), arguments=2, softirq=True),
            Candidate(programs=("tcp_retransmit_skb_tp",)),
            Candidate(programs=("__tcp_retransmit_skb_fexit",), arguments=3),
            Candidate(programs=("__tcp_retransmit_skb_kprobe", "__tcp_retransmit_skb_kretprobe")),
        ),
    ),
    Event(
        "tcp_retransmit_synack",
        (
            Candidate(programs=("tcp_retransmit_synack_tp_btf",), softirq=True),
            Candidate(programs=("tcp_retransmit_synack_tp",)),
            Candidate(programs=("tcp_rtx_synack_fexit",), arguments=2),
            Candidate(programs=("tcp_rtx_synack_kprobe", "tcp_rtx_synack_kretprobe")),
        ),
    ),
)
