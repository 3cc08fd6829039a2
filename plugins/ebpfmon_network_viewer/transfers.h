/* SPDX-License-Identifier: GPL-2.0-only */
/* Sends and receives of TCP and UDP. They are counted where the socket layer calls the protocol. Every call gets there
 * (including those of io_uring and of the kernel itself; with kTLS, before encryption), and these functions have the
 * same arguments in all kernels. */
#ifndef EBPFMON_TRANSFERS_H
#define EBPFMON_TRANSFERS_H

#include "datagrams.h"
#include "processes.h"

/* Which events the programs at the raw and at the classic tracepoints count. One tracepoint covers both address
 * families. */
const volatile __u8 raw_counts_send_ipv4 = 0;
const volatile __u8 raw_counts_send_ipv6 = 0;
const volatile __u8 raw_counts_receive_ipv4 = 0;
const volatile __u8 raw_counts_receive_ipv6 = 0;
const volatile __u8 classic_counts_send_ipv4 = 0;
const volatile __u8 classic_counts_send_ipv6 = 0;
const volatile __u8 classic_counts_receive_ipv4 = 0;
const volatile __u8 classic_counts_receive_ipv6 = 0;

/* Where to find the peer of a datagram: in the message, in the arguments of the current system call, or only in the
 * socket. */
enum peer_source { FROM_MESSAGE, FROM_SYSCALL, FROM_SOCKET };

/* Return whether a call has moved data. A datagram may be empty, but a receive at the end of a TCP connection returns 0. */
static __always_inline bool moves_data(const struct endpoint *end, long result)
{
	return result >= (end->protocol == IPPROTO_TCP);
}

static __always_inline int on_send(struct sock *sk, const enum peer_source source, struct msghdr *message, long result,
				   const bool typed)
{
	struct peer datagram = {};
	struct endpoint end = {};

	if (!read_endpoint(&end, sk, typed))
		return 0;
	count_call(&end, false, true, result);
	if (!end.peer.port && end.protocol == IPPROTO_UDP) {
		if (source == FROM_MESSAGE)
			peer_of_message(&datagram, message, typed);
		else if (source == FROM_SYSCALL)
			peer_of_call(&datagram);
	}
	if (moves_data(&end, result))
		count_destination(sk, &end, &datagram, false, result, typed);
	return 0;
}

static __always_inline int on_receive(struct sock *sk, const enum peer_source source, int flags, long result,
				      const bool typed)
{
	bool consumed = !(flags & (MSG_PEEK | MSG_ERRQUEUE));
	struct peer datagram = {};
	struct endpoint end = {};

	if (!read_endpoint(&end, sk, typed))
		return 0;
	count_call(&end, true, consumed, result);
	if (!end.peer.port && end.protocol == IPPROTO_UDP) {
		if (!COUNTS_AT_EXIT)
			peer_of_received(&datagram);
		else if (source == FROM_SYSCALL && defer_datagram(sk, &end, consumed, result, typed))
			return 0;
	}
	if (consumed && moves_data(&end, result))
		count_destination(sk, &end, &datagram, true, result, typed);
	return 0;
}

static __always_inline int on_send_return(enum function function, const enum peer_source source, long result)
{
	struct call call = take_call(function);
	struct sock *sk = sk_of((struct socket *)call.object, false);

	return sk ? on_send(sk, source, (struct msghdr *)call.second, result, false) : 0;
}

static __always_inline int on_receive_return(enum function function, const enum peer_source source, long result)
{
	struct call call = take_call(function);
	struct sock *sk = sk_of((struct socket *)call.object, false);

	return sk ? on_receive(sk, source, source == FROM_MESSAGE ? call.flags : 0, result, false) : 0;
}

static __always_inline bool is_counted(struct sock *sk, bool ipv4, bool ipv6, const bool typed)
{
	__u16 family = READ_FIELD(sk, __sk_common.skc_family, typed);

	return (family == AF_INET && ipv4) || (family == AF_INET6 && ipv6);
}

#ifndef BCC
/* Ignore UDP sockets, because the tracepoints of receives have already counted the datagram. Ignore calls that do not get
 * as far as the socket: of 0 bytes, or with descriptors or offsets that splice(2) rejects. */
static __always_inline int on_splice_exit(struct pt_regs *regs, long result)
{
	const __u32 rejected = 1 << EBADF | 1 << EINVAL | 1 << ESPIPE;
	bool compat = in_32_bit_call();
	__u32 error = -result;
	__u64 size = compat ? SYSCALL_COMPAT_ARG5(regs) : SYSCALL_ARG5(regs);
	struct sock *sk;

	if (!size || (error < 32 && rejected >> error & 1))
		return 0;
	sk = socket_of(compat ? SYSCALL_COMPAT_ARG1(regs) : SYSCALL_ARG1(regs));
	return sk && READ_FIELD(sk, sk_type, false) == SOCK_STREAM ? on_receive(sk, FROM_SOCKET, 0, result, false) : 0;
}
#endif

SEC("fexit/inet_sendmsg")
int BPF_PROG(inet_sendmsg_fexit, struct socket *socket, struct msghdr *message, __u64 size, int result)
{
	return on_send(sk_of(socket, true), FROM_MESSAGE, message, result, true);
}

SEC("kprobe/inet_sendmsg")
int BPF_KPROBE(inet_sendmsg_kprobe, struct socket *socket, struct msghdr *message)
{
	return keep_call(SENDMSG, socket, message, 0);
}

SEC("kretprobe/inet_sendmsg")
int BPF_KRETPROBE(inet_sendmsg_kretprobe, int result)
{
	return on_send_return(SENDMSG, FROM_MESSAGE, result);
}

SEC("fexit/inet6_sendmsg")
int BPF_PROG(inet6_sendmsg_fexit, struct socket *socket, struct msghdr *message, __u64 size, int result)
{
	return on_send(sk_of(socket, true), FROM_MESSAGE, message, result, true);
}

SEC("kprobe/inet6_sendmsg")
int BPF_KPROBE(inet6_sendmsg_kprobe, struct socket *socket, struct msghdr *message)
{
	return keep_call(SENDMSG, socket, message, 0);
}

SEC("kretprobe/inet6_sendmsg")
int BPF_KRETPROBE(inet6_sendmsg_kretprobe, int result)
{
	return on_send_return(SENDMSG, FROM_MESSAGE, result);
}

SEC("fexit/inet_recvmsg")
int BPF_PROG(inet_recvmsg_fexit, struct socket *socket, struct msghdr *message, __u64 size, int flags, int result)
{
	return on_receive(sk_of(socket, true), FROM_MESSAGE, flags, result, true);
}

SEC("kprobe/inet_recvmsg")
int BPF_KPROBE(inet_recvmsg_kprobe, struct socket *socket, struct msghdr *message, __u64 size, int flags)
{
	return keep_call(RECVMSG, socket, message, flags);
}

SEC("kretprobe/inet_recvmsg")
int BPF_KRETPROBE(inet_recvmsg_kretprobe, int result)
{
	return on_receive_return(RECVMSG, FROM_MESSAGE, result);
}

SEC("fexit/inet6_recvmsg")
int BPF_PROG(inet6_recvmsg_fexit, struct socket *socket, struct msghdr *message, __u64 size, int flags, int result)
{
	return on_receive(sk_of(socket, true), FROM_MESSAGE, flags, result, true);
}

SEC("kprobe/inet6_recvmsg")
int BPF_KPROBE(inet6_recvmsg_kprobe, struct socket *socket, struct msghdr *message, __u64 size, int flags)
{
	return keep_call(RECVMSG, socket, message, flags);
}

SEC("kretprobe/inet6_recvmsg")
int BPF_KRETPROBE(inet6_recvmsg_kretprobe, int result)
{
	return on_receive_return(RECVMSG, FROM_MESSAGE, result);
}

#ifndef BCC
SEC("tp_btf/sock_send_length")
int BPF_PROG(sock_send_length_tp_btf, struct sock *sk, int result)
{
	if (!is_counted(sk, raw_counts_send_ipv4, raw_counts_send_ipv6, true))
		return 0;
	return on_send(sk, FROM_SYSCALL, 0, result, true);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(sock_recv_length_tp_btf, struct sock *sk, int result, int flags)
{
	if (!is_counted(sk, raw_counts_receive_ipv4, raw_counts_receive_ipv6, true))
		return 0;
	return on_receive(sk, FROM_SYSCALL, flags, result, true);
}

SEC("tp/sock/sock_send_length")
int sock_send_length_tp(struct trace_event_raw_sock_msg_length *ctx)
{
	if (!is_counted(ctx->sk, classic_counts_send_ipv4, classic_counts_send_ipv6, false))
		return 0;
	return on_send(ctx->sk, FROM_SYSCALL, 0, ctx->ret, false);
}

SEC("tp/sock/sock_recv_length")
int sock_recv_length_tp(struct trace_event_raw_sock_msg_length *ctx)
{
	if (!is_counted(ctx->sk, classic_counts_receive_ipv4, classic_counts_receive_ipv6, false))
		return 0;
	return on_receive(ctx->sk, FROM_SYSCALL, ctx->flags, ctx->ret, false);
}
#endif

/* sendfile(2) and splice(2) to a socket called this function before Linux dc97391e6610 ("sock: Remove ->sendpage*() in
 * favour of sendmsg(MSG_SPLICE_PAGES)") (in v6.5). */
SEC("fexit/inet_sendpage")
int BPF_PROG(inet_sendpage_fexit, struct socket *socket, void *page, int offset, __u64 size, int flags, long result)
{
	return on_send(sk_of(socket, true), FROM_SOCKET, 0, result, true);
}

SEC("kprobe/inet_sendpage")
int BPF_KPROBE(inet_sendpage_kprobe, struct socket *socket)
{
	return keep_call(SENDPAGE, socket, 0, 0);
}

SEC("kretprobe/inet_sendpage")
int BPF_KRETPROBE(inet_sendpage_kretprobe, long result)
{
	return on_send_return(SENDPAGE, FROM_SOCKET, result);
}

/* splice(2) from a socket. */
SEC("fexit/tcp_splice_read")
int BPF_PROG(tcp_splice_read_fexit, struct socket *socket, void *pos, void *pipe, __u64 size, unsigned int flags, long result)
{
	return on_receive(sk_of(socket, true), FROM_SOCKET, 0, result, true);
}

SEC("kprobe/tcp_splice_read")
int BPF_KPROBE(tcp_splice_read_kprobe, struct socket *socket)
{
	return keep_call(SPLICE_READ, socket, 0, 0);
}

SEC("kretprobe/tcp_splice_read")
int BPF_KRETPROBE(tcp_splice_read_kretprobe, long result)
{
	return on_receive_return(SPLICE_READ, FROM_SOCKET, result);
}

#endif
