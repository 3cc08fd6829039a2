/* SPDX-License-Identifier: GPL-2.0-only */
/* Where it is seen what is sent and received, by TCP and UDP. */
#ifndef EBPFMON_NETWORK_TRANSFERS_BPF_H
#define EBPFMON_NETWORK_TRANSFERS_BPF_H

#include "network_peers.bpf.h"

/* Sends and receives, of both protocols, are seen where the socket layer calls them: every call comes by there (also
 * io_uring's and the kernel's own, and with kTLS the payload as it was before), and its arguments never changed. */

enum peer_by { BY_MESSAGE, BY_CALL, BY_SOCKET };

static __always_inline int on_send(void *sk, const enum peer_by by, void *message, long result, const bool typed)
{
	struct peer datagram = {};
	struct endpoint end = {};

	if (!read_endpoint(&end, sk, typed))
		return 0;
	count_call(&end, false, true, result);
	if (!end.peer.port && end.protocol == IPPROTO_UDP) {
		if (by == BY_MESSAGE)
			peer_of_message(&datagram, message, typed);
		else if (by == BY_CALL)
			peer_of_call(&datagram, result);
	}
	if (result < 0)
		return 0;
	count_destination(sk, &end, &datagram, false, result, typed);
	if (by == BY_CALL && datagram.port)
		sent_last(sk, &datagram);
	return 0;
}

static __always_inline int on_receive(void *sk, const enum peer_by by, int flags, long result, const bool typed)
{
	bool moved = !(flags & (MSG_PEEK | MSG_ERRQUEUE));
	struct peer datagram = {};
	struct endpoint end = {};

	if (!read_endpoint(&end, sk, typed))
		return 0;
	count_call(&end, true, moved, result);
	if (!end.peer.port && end.protocol == IPPROTO_UDP) {
		peer_of_received(&datagram);
		if (by == BY_CALL && !datagram.port && moved && result >= 0) {
			if (is_told_later(sk, &end, typed))
				return 0;
			peer_of_last(&datagram, sk);
		}
	}
	if (moved && result >= 0)
		count_destination(sk, &end, &datagram, true, result, typed);
	return 0;
}

/* The struct sock of a struct socket, or 0. */
static __always_inline void *sk_of(void *socket, const bool typed)
{
	void *sk = 0;

	LOAD(typed, sk, socket, struct socket, sk);
	return sk;
}

/* int inet_sendmsg(struct socket *sock, struct msghdr *msg, size_t size) */
static __always_inline int on_sendmsg(__u64 *args, int result)
{
	return on_send(sk_of((void *)args[0], true), BY_MESSAGE, (void *)args[1], result, true);
}
FEXIT_ARGS(send_ipv4, inet_sendmsg, 3, on_sendmsg)
FEXIT_ARGS(send_ipv6, inet6_sendmsg, 3, on_sendmsg)

/* int inet_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags) */
static __always_inline int on_recvmsg(__u64 *args, int result)
{
	return on_receive(sk_of((void *)args[0], true), BY_MESSAGE, args[3], result, true);
}
FEXIT_ARGS(receive_ipv4, inet_recvmsg, 4, on_recvmsg)
FEXIT_ARGS(receive_ipv6, inet6_recvmsg, 4, on_recvmsg)

/* Where kprobes see them, the arguments are kept until the return; of each function apart, as a retransmission may
 * come in the middle of a send. */
enum function { SENDMSG, RECVMSG, SENDPAGE, SPLICE_READ, RETRANSMIT, SYNACK };

struct call {
	__u64 socket, message;
	__u64 flags;
};

#ifndef BCC
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CALLS);
	__type(key, __u64);
	__type(value, struct call);
} network_calls SEC(".maps");
#endif

/* a PID has 22 bits */
#define CALL_ID(function) (bpf_get_current_pid_tgid() | (__u64)(function) << 24)

static __always_inline int on_entry(struct pt_regs *ctx, enum function function)
{
	struct call call = { KPROBE_ARG1(ctx), KPROBE_ARG2(ctx), KPROBE_ARG4(ctx) };
	__u64 id = CALL_ID(function);

	bpf_map_update_elem(MAP(network_calls), &id, &call, BPF_ANY);
	return 0;
}
#define ON_ENTRY(function) \
	static __always_inline int on_##function(struct pt_regs *ctx) { return on_entry(ctx, function); }
ON_ENTRY(SENDMSG)
ON_ENTRY(RECVMSG)
ON_ENTRY(SENDPAGE)
ON_ENTRY(SPLICE_READ)
ON_ENTRY(RETRANSMIT)
ON_ENTRY(SYNACK)

/* The call that the current task returns from; its socket is 0 if that is not known. */
static __always_inline struct call this_call(enum function function)
{
	__u64 id = CALL_ID(function);
	struct call *found = bpf_map_lookup_elem(MAP(network_calls), &id), call = {};

	if (found)
		call = *found;
	bpf_map_delete_elem(MAP(network_calls), &id);
	return call;
}

static __always_inline int on_sendmsg_return(int result)
{
	struct call call = this_call(SENDMSG);
	void *sk = sk_of((void *)call.socket, false);

	return sk ? on_send(sk, BY_MESSAGE, (void *)call.message, result, false) : 0;
}
KPROBE_AND_KRETPROBE(send_ipv4, inet_sendmsg, on_SENDMSG, on_sendmsg_return)
KPROBE_AND_KRETPROBE(send_ipv6, inet6_sendmsg, on_SENDMSG, on_sendmsg_return)

static __always_inline int on_recvmsg_return(int result)
{
	struct call call = this_call(RECVMSG);
	void *sk = sk_of((void *)call.socket, false);

	return sk ? on_receive(sk, BY_MESSAGE, call.flags, result, false) : 0;
}
KPROBE_AND_KRETPROBE(receive_ipv4, inet_recvmsg, on_RECVMSG, on_recvmsg_return)
KPROBE_AND_KRETPROBE(receive_ipv6, inet6_recvmsg, on_RECVMSG, on_recvmsg_return)

#define SEEN_AT_EITHER(target, classic, event)                                       \
	SEEN_AT(target, event);                                                      \
	SEEN_AT(classic, event)
SEEN_AT_EITHER(sock_send_length, sock_sock_send_length, send_ipv4);
SEEN_AT_EITHER(sock_send_length, sock_sock_send_length, send_ipv6);
SEEN_AT_EITHER(sock_recv_length, sock_sock_recv_length, receive_ipv4);
SEEN_AT_EITHER(sock_recv_length, sock_sock_recv_length, receive_ipv6);

/* One tracepoint is both families': which of them is to be seen there? */
static __always_inline bool is_seen(void *sk, bool ipv4, bool ipv6, const bool typed)
{
	__u16 family = 0;

	LOAD(typed, family, sk, struct sock, __sk_common.skc_family);
	return (family == AF_INET && ipv4) || (family == AF_INET6 && ipv6);
}

#ifndef BCC /* which could not tell whom a datagram is for */
/* TP_PROTO(struct sock *sk, int ret, int flags) */
static __always_inline int on_sock_send_length(__u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];

	if (!is_seen(sk, send_ipv4__tracepoint__sock_send_length, send_ipv6__tracepoint__sock_send_length, true))
		return 0;
	return on_send(sk, BY_CALL, 0, (int)ctx[1], true);
}
SHARED_TRACEPOINT(sock_send_length, on_sock_send_length)

static __always_inline int on_sock_recv_length(__u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];

	if (!is_seen(sk, receive_ipv4__tracepoint__sock_recv_length, receive_ipv6__tracepoint__sock_recv_length, true))
		return 0;
	return on_receive(sk, BY_CALL, ctx[2], (int)ctx[1], true);
}
SHARED_TRACEPOINT(sock_recv_length, on_sock_recv_length)

static __always_inline int on_classic_sock_send_length(struct trace_event_raw_sock_msg_length *ctx)
{
	if (!is_seen(ctx->sk, send_ipv4__tracepoint__sock_sock_send_length,
		     send_ipv6__tracepoint__sock_sock_send_length, false))
		return 0;
	return on_send(ctx->sk, BY_CALL, 0, ctx->ret, false);
}
SHARED_CLASSIC_TRACEPOINT(sock, sock_send_length, on_classic_sock_send_length)

static __always_inline int on_classic_sock_recv_length(struct trace_event_raw_sock_msg_length *ctx)
{
	if (!is_seen(ctx->sk, receive_ipv4__tracepoint__sock_sock_recv_length,
		     receive_ipv6__tracepoint__sock_sock_recv_length, false))
		return 0;
	return on_receive(ctx->sk, BY_CALL, ctx->flags, ctx->ret, false);
}
SHARED_CLASSIC_TRACEPOINT(sock, sock_recv_length, on_classic_sock_recv_length)
#endif

/* sendfile(2) and splice(2) to a socket had a way of their own until it went in 6.5:
 * ssize_t inet_sendpage(struct socket *sock, struct page *page, int offset, size_t size, int flags) */
static __always_inline int on_sendpage(__u64 *args, long result)
{
	return on_send(sk_of((void *)args[0], true), BY_SOCKET, 0, result, true);
}
FEXIT_ARGS(sendfile, inet_sendpage, 5, on_sendpage)
IF_ANY(sendfile);

static __always_inline int on_sendpage_return(long result)
{
	struct call call = this_call(SENDPAGE);
	void *sk = sk_of((void *)call.socket, false);

	return sk ? on_send(sk, BY_SOCKET, 0, result, false) : 0;
}
KPROBE_AND_KRETPROBE(sendfile, inet_sendpage, on_SENDPAGE, on_sendpage_return)

/* splice(2) from a socket:
 * ssize_t tcp_splice_read(struct socket *sock, loff_t *ppos, struct pipe_inode_info *pipe, size_t len, unsigned flags) */
static __always_inline int on_splice_read(__u64 *args, long result)
{
	return on_receive(sk_of((void *)args[0], true), BY_SOCKET, 0, result, true);
}
FEXIT_ARGS(splice, tcp_splice_read, 5, on_splice_read)

static __always_inline int on_splice_read_return(long result)
{
	struct call call = this_call(SPLICE_READ);
	void *sk = sk_of((void *)call.socket, false);

	return sk ? on_receive(sk, BY_SOCKET, 0, result, false) : 0;
}
KPROBE_AND_KRETPROBE(splice, tcp_splice_read, on_SPLICE_READ, on_splice_read_return)

#endif
