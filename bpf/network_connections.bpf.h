/* SPDX-License-Identifier: GPL-2.0-only */
/* Where it is seen how TCP connections come and go, and what the kernel sends again. */
#ifndef EBPFMON_NETWORK_CONNECTIONS_BPF_H
#define EBPFMON_NETWORK_CONNECTIONS_BPF_H

#include "network_transfers.bpf.h"

/* Where to count what happens to a socket in whatever task: with its owner. Nobody's are the kernel's (tgid 0). */
static __always_inline bool owner_slots(struct network_slots *to, const struct socket_facts *facts)
{
	struct process_identity nobody = {};
	struct process_key key = {};

	if (facts)
		key = facts->process;
	return network_slots_of(to, &key, facts ? &facts->who : &nobody, 0, false);
}

static __always_inline int on_retransmit(void *sk, __u32 segments, const bool typed)
{
	struct socket_facts *facts = known(sk), older = {};
	struct endpoint end = {};
	struct outbound_slots out;
	struct inbound_slots in;
	struct network_slots to;

	if (!read_endpoint(&end, sk, typed))
		return 0;
	if (owner_slots(&to, facts))
		ADD(&to, tcp_retransmits, segments);
	if (!facts) {
		older.direction = is_listened_at(sk, &end, typed) ? INBOUND : OUTBOUND;
		facts = &older;
	}
	if (!end.peer.port || !is_wanted(facts, &end, &end.peer))
		return 0;
	if (facts->direction == INBOUND) {
		if (inbound_place(&in, &facts->process, end.local_port, end.protocol))
			ADD(&in, retransmits, segments);
	} else if (outbound_place(&out, &facts->process, &end.peer, end.protocol)) {
		ADD(&out, retransmits, segments);
	}
	return 0;
}

/* A TCP socket's state: an attempt to connect begins in the process that makes it, and ends wherever the answer comes
 * in. An attempt that no packet was sent for (no route) is not one. */
static __always_inline int on_state(void *sk, int before, int now, const bool typed)
{
	struct endpoint end = {};
	struct network_slots to;

	if (!read_endpoint(&end, sk, typed) || end.protocol != IPPROTO_TCP)
		return 0;
	if (now == TCP_SYN_SENT) {
		now_known(sk, &end, OUTBOUND, true);
		if (!network_slots(&to))
			return 0;
		if (end.inet6)
			ADD(&to, tcp_connects_v6, 1);
		else
			ADD(&to, tcp_connects_v4, 1);
	} else if (before == TCP_SYN_SENT && now == TCP_CLOSE) {
		if (owner_slots(&to, known(sk)))
			ADD(&to, tcp_connects_failed, 1);
	} else if (before == TCP_SYN_RECV && now == TCP_ESTABLISHED) {
		if (!known(sk))
			now_known(sk, &end, INBOUND, false);
	} else if (now == TCP_LISTEN) {
		listens(sk, &end, typed);
		now_known(sk, &end, UNDECIDED, true);
	}
	return 0;
}

/* TP_PROTO(const struct sock *sk, const int oldstate, const int newstate) */
static __always_inline int on_inet_sock_set_state(__u64 *ctx)
{
	return on_state((void *)ctx[0], ctx[1], ctx[2], true);
}
TRACEPOINT_IN_SOFTIRQ(tcp_state, inet_sock_set_state, on_inet_sock_set_state)

#ifndef BCC
static __always_inline int on_classic_inet_sock_set_state(struct trace_event_raw_inet_sock_set_state *ctx)
{
	return on_state(ctx->skaddr, ctx->oldstate, ctx->newstate, false);
}
CLASSIC_TRACEPOINT(tcp_state, sock, inet_sock_set_state, on_classic_inet_sock_set_state)
#endif

/* void tcp_set_state(struct sock *sk, int state); listen(2) does not come by there */
static __always_inline int on_tcp_set_state(void *sk, int now, const bool typed)
{
	__u8 before = 0;

	LOAD(typed, before, sk, struct sock, __sk_common.skc_state);
	return on_state(sk, before, now, typed);
}

#ifndef BCC
SEC("fentry/tcp_set_state")
int tcp_state__trampoline__tcp_set_state(__u64 *ctx)
{
	return on_tcp_set_state((void *)ctx[0], ctx[1], true);
}
#endif

SEC("kprobe/tcp_set_state")
int tcp_state__kprobe__tcp_set_state(struct pt_regs *ctx)
{
	return on_tcp_set_state((void *)KPROBE_ARG1(ctx), KPROBE_ARG2(ctx), false);
}

/* accept(2): struct sock *inet_csk_accept(struct sock *sk, ...) */
static __always_inline int on_accept(void *sk, const bool typed)
{
	struct endpoint end = {};
	struct network_slots to;

	if (!sk || !read_endpoint(&end, sk, typed) || end.protocol != IPPROTO_TCP)
		return 0;
	now_known(sk, &end, INBOUND, true);
	if (network_slots(&to))
		ADD(&to, tcp_accepted, 1);
	return 0;
}

static __always_inline int on_accept_exit(__u64 sk)
{
	return on_accept((void *)sk, true);
}
FEXIT(tcp_accept, inet_csk_accept, 2, on_accept_exit)
FEXIT(tcp_accept, inet_csk_accept, 4, on_accept_exit)

static __always_inline int on_accept_return(__u64 sk)
{
	return on_accept((void *)sk, false);
}
KRETPROBE(tcp_accept, inet_csk_accept, on_accept_return)

#ifndef BCC
/* The socket behind a descriptor of the current process, or 0. */
static __always_inline void *socket_of(int fd)
{
	void *files = 0, *fdt = 0, *open = 0, *file = 0, *inode = 0, *socket = 0, *sk = 0;
	__u16 mode = 0;

	READ(files, CURRENT_TASK(), struct task_struct, files);
	READ(fdt, files, struct files_struct, fdt);
	READ(open, fdt, struct fdtable, fd);
	bpf_probe_read_kernel(&file, sizeof(file), open + sizeof(file) * (__u32)fd);
	READ(inode, file, struct file, f_inode);
	READ(mode, inode, struct inode, i_mode);
	if ((mode & FILE_TYPE) != FILE_IS_SOCKET)
		return 0;
	READ(socket, file, struct file, private_data);
	READ(sk, socket, struct socket, sk);
	return sk;
}

static __always_inline int on_accept_call(struct trace_event_raw_sys_exit *ctx)
{
	return ctx->ret < 0 ? 0 : on_accept(socket_of(ctx->ret), false);
}

/* accept(2) and accept4(2) are two system calls, and one event */
SEC("tp/syscalls/sys_exit_accept4")
int tcp_accept__tracepoint__syscalls_sys_exit_accept4(void *ctx)
{
	return on_accept_call(ctx);
}

SEC("tp/syscalls/sys_exit_accept")
int tcp_accept__tracepoint__syscalls_sys_exit_accept4__and_accept(void *ctx)
{
	return on_accept_call(ctx);
}

static __always_inline int on_splice_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	void *sk = socket_of(REGISTER(regs, SYSCALL_ARG1));

	return sk ? on_receive(sk, BY_SOCKET, 0, ctx->ret, false) : 0;
}
CLASSIC_TRACEPOINT(splice, syscalls, sys_exit_splice, on_splice_exit)
#endif

/* void tcp_close(struct sock *sk, long timeout): the last descriptor of it is closed */
static __always_inline int on_close(void *sk, const bool typed)
{
	struct network_slots to;

	if (network_slots(&to))
		ADD(&to, tcp_close_calls, 1);
	return 0;
}
FENTRY(tcp_close, tcp_close, on_close)
KPROBE(tcp_close, tcp_close, on_close)

/* ... which tracepoints see when the connection is over, then or a little later. What no process ever had is not
 * closed: it had not been accepted. */
static __always_inline int on_closed(void *sk, const bool typed)
{
	struct socket_facts *facts = known(sk);
	struct endpoint end = {};
	struct network_slots to;

	if (!read_endpoint(&end, sk, typed) || (facts && !facts->owned))
		return 0;
	/* what was never connected goes in the call that closes it */
	if (facts ? owner_slots(&to, facts) : end.peer.port ? owner_slots(&to, 0) : network_slots(&to))
		ADD(&to, tcp_close_calls, 1);
	return 0;
}

/* TP_PROTO(struct sock *sk) */
static __always_inline int on_close_seen(__u64 *ctx)
{
	return on_closed((void *)ctx[0], true);
}
TRACEPOINT_IN_SOFTIRQ(tcp_close, tcp_destroy_sock, on_close_seen)

#ifndef BCC
static __always_inline int on_classic_close_seen(struct trace_event_raw_tcp_event_sk *ctx)
{
	return on_closed(ctx->skaddr, false);
}
CLASSIC_TRACEPOINT(tcp_close, tcp, tcp_destroy_sock, on_classic_close_seen)
#endif

/* After that, as what is attached first runs first: what was known of the socket. */
static __always_inline int on_gone(void *sk, const bool typed)
{
	__u64 address = (__u64)sk;

	bpf_map_delete_elem(MAP(network_sockets), &address);
	return 0;
}

static __always_inline int on_tcp_destroy_sock(__u64 *ctx)
{
	return on_gone((void *)ctx[0], true);
}
TRACEPOINT_IN_SOFTIRQ(socket_gone, tcp_destroy_sock, on_tcp_destroy_sock)

#ifndef BCC
static __always_inline int on_classic_tcp_destroy_sock(struct trace_event_raw_tcp_event_sk *ctx)
{
	return on_gone(ctx->skaddr, false);
}
CLASSIC_TRACEPOINT(socket_gone, tcp, tcp_destroy_sock, on_classic_tcp_destroy_sock)
#endif

/* void tcp_v4_destroy_sock(struct sock *sk), of IPv6 too */
FENTRY(socket_gone, tcp_v4_destroy_sock, on_gone)
KPROBE(socket_gone, tcp_v4_destroy_sock, on_gone)

/* Segments are counted as the kernel's own TcpRetransSegs does. */
static __always_inline __u32 segments_of(void *skb)
{
	__u16 segments = 0;

	bpf_probe_read_kernel(&segments, sizeof(segments),
			      skb + OFFSET(struct sk_buff, cb) + OFFSET(struct tcp_skb_cb, tcp_gso_segs));
	return segments;
}

/* TP_PROTO(const struct sock *sk, const struct sk_buff *skb, int err): since 6.15; before, what failed did not come by */
#ifdef BCC
#define TELLS_OF_FAILURES false /* not that BCC could tell */
#else
#define TELLS_OF_FAILURES HAS_FIELD(struct trace_event_raw_tcp_retransmit_skb, err)
#endif

static __always_inline int on_tcp_retransmit_skb(__u64 *ctx)
{
	if (TELLS_OF_FAILURES && (int)ctx[2] < 0)
		return 0;
	return on_retransmit((void *)ctx[0], segments_of((void *)ctx[1]), true);
}
TRACEPOINT_IN_SOFTIRQ(tcp_retransmit, tcp_retransmit_skb, on_tcp_retransmit_skb)

#ifndef BCC
static __always_inline int on_classic_tcp_retransmit_skb(struct trace_event_raw_tcp_retransmit_skb *ctx)
{
	if (TELLS_OF_FAILURES && ctx->err < 0)
		return 0;
	return on_retransmit(ctx->skaddr, segments_of(ctx->skbaddr), false);
}
CLASSIC_TRACEPOINT(tcp_retransmit, tcp, tcp_retransmit_skb, on_classic_tcp_retransmit_skb)

/* int __tcp_retransmit_skb(struct sock *sk, struct sk_buff *skb, int segs) */
static __always_inline int on_retransmit_exit(__u64 *args, int result)
{
	return result ? 0 : on_retransmit((void *)args[0], segments_of((void *)args[1]), true);
}
#endif
FEXIT_ARGS(tcp_retransmit, __tcp_retransmit_skb, 3, on_retransmit_exit)

static __always_inline int on_retransmit_return(int result)
{
	struct call call = this_call(RETRANSMIT);

	return result || !call.socket ? 0 : on_retransmit((void *)call.socket, segments_of((void *)call.message), false);
}
KPROBE_AND_KRETPROBE(tcp_retransmit, __tcp_retransmit_skb, on_RETRANSMIT, on_retransmit_return)

/* TP_PROTO(const struct sock *sk, const struct request_sock *req): of a connection that nobody has accepted yet */
static __always_inline int on_tcp_retransmit_synack(__u64 *ctx)
{
	return on_retransmit((void *)ctx[0], 1, true);
}
TRACEPOINT_IN_SOFTIRQ(tcp_retransmit_synack, tcp_retransmit_synack, on_tcp_retransmit_synack)

#ifndef BCC
static __always_inline int on_classic_tcp_retransmit_synack(struct trace_event_raw_tcp_retransmit_synack *ctx)
{
	return on_retransmit(ctx->skaddr, 1, false);
}
CLASSIC_TRACEPOINT(tcp_retransmit_synack, tcp, tcp_retransmit_synack, on_classic_tcp_retransmit_synack)

/* int tcp_rtx_synack(const struct sock *sk, struct request_sock *req) */
static __always_inline int on_synack_exit(__u64 *args, int result)
{
	return result ? 0 : on_retransmit((void *)args[0], 1, true);
}
#endif
FEXIT_ARGS(tcp_retransmit_synack, tcp_rtx_synack, 2, on_synack_exit)

static __always_inline int on_synack_return(int result)
{
	struct call call = this_call(SYNACK);

	return result || !call.socket ? 0 : on_retransmit((void *)call.socket, 1, false);
}
KPROBE_AND_KRETPROBE(tcp_retransmit_synack, tcp_rtx_synack, on_SYNACK, on_synack_return)

#endif
