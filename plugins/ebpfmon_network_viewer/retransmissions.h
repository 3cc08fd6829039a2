/* SPDX-License-Identifier: GPL-2.0-only */
/* Segments that the kernel sends again on TCP sockets. */
#ifndef EBPFMON_RETRANSMISSIONS_H
#define EBPFMON_RETRANSMISSIONS_H

#include "destinations.h"
#include "processes.h"

static __always_inline void count_retransmit_of_owner(const struct socket_facts *facts, __u32 segments)
{
	struct network_counters *counters = find_owner_counters(facts);

	if (counters)
		count(&counters->tcp_retransmits, segments);
}

static __always_inline void count_retransmit_of_destination(struct sock *sk, struct endpoint *end,
							    struct socket_facts *facts, __u32 segments,
							    const bool typed)
{
	struct socket_facts unknown = {};
	struct outbound_counters *outbound;
	struct inbound_counters *inbound;

	if (!facts) {
		unknown.direction = is_listened_at(sk, end, typed) ? INBOUND : OUTBOUND;
		facts = &unknown;
	}
	if (!end->peer.port || !is_selected(facts, end, &end->peer))
		return;
	if (facts->direction == INBOUND) {
		inbound = find_inbound(&facts->owner.process, end->local_port, end->protocol);
		if (inbound)
			count(&inbound->retransmits, segments);
	} else {
		outbound = find_outbound(&facts->owner.process, &end->peer, end->protocol);
		if (outbound)
			count(&outbound->retransmits, segments);
	}
}

static __always_inline int on_retransmit(struct sock *sk, __u32 segments, const bool typed)
{
	struct socket_facts *facts;
	struct endpoint end = {};

	if (!read_endpoint(&end, sk, typed) || is_subflow(sk))
		return 0;
	facts = find_socket(sk, &end, typed);
	/* In this order, the verifier processes a third fewer instructions than in the other. */
	count_retransmit_of_destination(sk, &end, facts, segments, typed);
	count_retransmit_of_owner(facts, segments);
	return 0;
}

/* Return the number of segments, counted as in the kernel's TcpRetransSegs. */
static __always_inline __u32 segments_of(struct sk_buff *skb)
{
	__u16 segments = 0;

	bpf_probe_read_kernel(&segments, sizeof(segments),
			      (void *)skb + bpf_core_field_offset(struct sk_buff, cb) +
			      bpf_core_field_offset(struct tcp_skb_cb, tcp_gso_segs));
	return segments;
}

static __always_inline int on_retransmit_return(int result)
{
	struct call call = take_call(RETRANSMIT);

	if (result || !call.object)
		return 0;
	return on_retransmit((struct sock *)call.object, segments_of((struct sk_buff *)call.second), false);
}

static __always_inline int on_synack_return(int result)
{
	struct call call = take_call(SYNACK);

	return result || !call.object ? 0 : on_retransmit((struct sock *)call.object, 1, false);
}

/* Since Linux 6.15, the tracepoint also fires for retransmissions that failed, with their error in `err`. With BCC they
 * cannot be told apart. */
#ifdef BCC
#define IS_FAILURE(err) false
#else
#define IS_FAILURE(err) ((err) < 0)
#endif

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit_skb_tp_btf, struct sock *sk, struct sk_buff *skb, int err)
{
	return IS_FAILURE(err) ? 0 : on_retransmit(sk, segments_of(skb), true);
}

/* Before Linux 6.15. */
SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit_skb_old_tp_btf, struct sock *sk, struct sk_buff *skb)
{
	return on_retransmit(sk, segments_of(skb), true);
}

SEC("tp/tcp/tcp_retransmit_skb")
int tcp_retransmit_skb_tp(struct trace_event_raw_tcp_retransmit_skb *ctx)
{
	if (bpf_core_field_exists(struct trace_event_raw_tcp_retransmit_skb, err) && ctx->err < 0)
		return 0;
	return on_retransmit(ctx->skaddr, segments_of(ctx->skbaddr), false);
}

SEC("fexit/__tcp_retransmit_skb")
int BPF_PROG(__tcp_retransmit_skb_fexit, struct sock *sk, struct sk_buff *skb, int segments, int result)
{
	return result ? 0 : on_retransmit(sk, segments_of(skb), true);
}

SEC("kprobe/__tcp_retransmit_skb")
int BPF_KPROBE(__tcp_retransmit_skb_kprobe, struct sock *sk, struct sk_buff *skb)
{
	return keep_call(RETRANSMIT, sk, skb, 0);
}

SEC("kretprobe/__tcp_retransmit_skb")
int BPF_KRETPROBE(__tcp_retransmit_skb_kretprobe, int result)
{
	return on_retransmit_return(result);
}

/* A SYN-ACK of a connection that is not established yet. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_retransmit_synack_tp_btf, struct sock *sk)
{
	return on_retransmit(sk, 1, true);
}

SEC("tp/tcp/tcp_retransmit_synack")
int tcp_retransmit_synack_tp(struct trace_event_raw_tcp_retransmit_synack *ctx)
{
	return on_retransmit(ctx->skaddr, 1, false);
}

SEC("fexit/tcp_rtx_synack")
int BPF_PROG(tcp_rtx_synack_fexit, struct sock *sk, void *request, int result)
{
	return result ? 0 : on_retransmit(sk, 1, true);
}

SEC("kprobe/tcp_rtx_synack")
int BPF_KPROBE(tcp_rtx_synack_kprobe, struct sock *sk)
{
	return keep_call(SYNACK, sk, 0, 0);
}

SEC("kretprobe/tcp_rtx_synack")
int BPF_KRETPROBE(tcp_rtx_synack_kretprobe, int result)
{
	return on_synack_return(result);
}

#endif
