/* SPDX-License-Identifier: GPL-2.0-only */
/* TCP connections: connect, listen, accept, close. */
#ifndef EBPFMON_CONNECTIONS_H
#define EBPFMON_CONNECTIONS_H

#include "transfers.h"

/* Handle a TCP socket's change of state. A connect begins in the context of the process that makes it, and ends in any
 * context, when the peer's reply arrives. A connect that fails before a SYN can be sent (no route) is not seen here. */
static __always_inline int on_state(struct sock *sk, int before, int now, const bool typed)
{
	struct network_counters *counters;
	struct socket_facts *facts;
	struct endpoint end = {};

	if (!read_endpoint(&end, sk, typed) || end.protocol != IPPROTO_TCP)
		return 0;
	if (now == TCP_LISTEN)
		remember_listener(sk, &end, typed);
	if (is_subflow(sk))
		return 0;
	if (now == TCP_SYN_SENT) {
		remember_socket(sk, &end, OUTBOUND, true, typed);
		counters = network_find();
		if (!counters)
			return 0;
		if (end.inet6)
			count(&counters->tcp_connects_v6, 1);
		else
			count(&counters->tcp_connects_v4, 1);
	} else if (before == TCP_SYN_SENT && now == TCP_CLOSE) {
		counters = find_owner_counters(find_socket(sk, &end, typed));
		if (counters)
			count(&counters->tcp_connects_failed, 1);
	} else if (before == TCP_SYN_RECV && now == TCP_ESTABLISHED) {
		if (!find_socket(sk, &end, typed))
			remember_socket(sk, &end, INBOUND, false, typed);
	} else if (now == TCP_LISTEN) {
		remember_socket(sk, &end, UNDECIDED, true, typed);
	} else if (now == TCP_FIN_WAIT1 || now == TCP_LAST_ACK || (before == TCP_LISTEN && now == TCP_CLOSE)) {
		/* close(2), shutdown(2) or the exit of the process */
		facts = find_socket(sk, &end, typed);
		if (facts)
			own_socket(sk, facts);
		else
			remember_socket(sk, &end, direction_of(sk, &end, false, typed), true, typed);
	}
	return 0;
}

static __always_inline int on_set_state(struct sock *sk, int now, const bool typed)
{
	return on_state(sk, READ_FIELD(sk, __sk_common.skc_state, typed), now, typed);
}

static __always_inline int on_accept(struct sock *sk, const bool typed)
{
	struct network_counters *counters;
	struct endpoint end = {};

	if (!sk || !read_endpoint(&end, sk, typed) || end.protocol != IPPROTO_TCP || is_subflow(sk))
		return 0;
	remember_socket(sk, &end, INBOUND, true, typed);
	counters = network_find();
	if (counters)
		count(&counters->tcp_accepted, 1);
	return 0;
}

/* Handle the close of a socket's last descriptor, by the current process. */
static __always_inline int on_close(struct sock *sk)
{
	struct network_counters *counters = is_subflow(sk) ? 0 : network_find();

	if (counters)
		count(&counters->tcp_close_calls, 1);
	return 0;
}

/* At tracepoints, count a close when the socket is destroyed, which may be later. A socket that no process ever owned
 * (a connection that was not accepted) is not counted. */
static __always_inline int on_destroy(struct sock *sk, const bool typed)
{
	struct network_counters *counters;
	struct socket_facts *facts;
	struct endpoint end = {};

	if (!read_endpoint(&end, sk, typed) || is_subflow(sk))
		return 0;
	facts = find_socket(sk, &end, typed);
	if (facts && !facts->owned)
		return 0;
	if (facts)
		counters = find_owner_counters(facts);
	else if (end.peer.port)
		counters = find_owner_counters(0);
	else /* A socket that was never connected is destroyed by close(2) itself. */
		counters = network_find();
	if (counters)
		count(&counters->tcp_close_calls, 1);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state_tp_btf, struct sock *sk, int before, int now)
{
	return on_state(sk, before, now, true);
}

SEC("tp/sock/inet_sock_set_state")
int inet_sock_set_state_tp(struct trace_event_raw_inet_sock_set_state *ctx)
{
	return on_state(ctx->skaddr, ctx->oldstate, ctx->newstate, false);
}

/* listen(2) does not call tcp_set_state(). */
SEC("fentry/tcp_set_state")
int BPF_PROG(tcp_set_state_fentry, struct sock *sk, int now)
{
	return on_set_state(sk, now, true);
}

SEC("kprobe/tcp_set_state")
int BPF_KPROBE(tcp_set_state_kprobe, struct sock *sk, int now)
{
	return on_set_state(sk, now, false);
}

/* Linux 92ef0fd55ac8 ("net: change proto and proto_ops accept type") (in v6.10) replaced the three arguments after the
 * socket by one. */
SEC("fexit/inet_csk_accept")
int BPF_PROG(inet_csk_accept_fexit, struct sock *listener, void *arg, struct sock *sk)
{
	return on_accept(sk, true);
}

SEC("fexit/inet_csk_accept")
int BPF_PROG(inet_csk_accept_old_fexit, struct sock *listener, int flags, void *error, bool kern,
	     struct sock *sk)
{
	return on_accept(sk, true);
}

SEC("kretprobe/inet_csk_accept")
int BPF_KRETPROBE(inet_csk_accept_kretprobe, struct sock *sk)
{
	return on_accept(sk, false);
}

SEC("fentry/tcp_close")
int BPF_PROG(tcp_close_fentry, struct sock *sk)
{
	return on_close(sk);
}

SEC("kprobe/tcp_close")
int BPF_KPROBE(tcp_close_kprobe, struct sock *sk)
{
	return on_close(sk);
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroy_sock_tp_btf, struct sock *sk)
{
	return on_destroy(sk, true);
}

SEC("tp/tcp/tcp_destroy_sock")
int tcp_destroy_sock_tp(struct trace_event_raw_tcp_event_sk *ctx)
{
	return on_destroy(ctx->skaddr, false);
}

/* Forget what is remembered about a socket. A program that counts the close at the same tracepoint needs it and must
 * run first. Programs run in the order of attachment, so events.py lists this event after tcp_close. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(forget_socket_tp_btf, struct sock *sk)
{
	return forget_socket(sk);
}

SEC("tp/tcp/tcp_destroy_sock")
int forget_socket_tp(struct trace_event_raw_tcp_event_sk *ctx)
{
	return forget_socket(ctx->skaddr);
}

/* IPv6 sockets call tcp_v4_destroy_sock() too. */
SEC("fentry/tcp_v4_destroy_sock")
int BPF_PROG(tcp_v4_destroy_sock_fentry, struct sock *sk)
{
	return forget_socket(sk);
}

SEC("kprobe/tcp_v4_destroy_sock")
int BPF_KPROBE(tcp_v4_destroy_sock_kprobe, struct sock *sk)
{
	return forget_socket(sk);
}

#endif
