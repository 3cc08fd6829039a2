/* SPDX-License-Identifier: GPL-2.0-only */
/* Datagrams of unconnected sockets: the receiver or the sender of each. */
#ifndef EBPFMON_DATAGRAMS_H
#define EBPFMON_DATAGRAMS_H

#include "calls.h"
#include "destinations.h"

/* Tasks that are sending or receiving a datagram on an unconnected socket. 0.4 MB for the senders, 0.5 MB for
 * the progress of calls. */
#define DATAGRAMS 4096

/* The sender of the datagram that a task has just received, by task. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DATAGRAMS);
	__type(key, __u64);
	__type(value, struct peer);
} network_senders SEC(".maps");

/* Convert a struct sockaddr_in or sockaddr_in6. The kernel takes AF_UNSPEC for AF_INET. */
static __always_inline void read_name(struct peer *to, const __u32 *name)
{
	__u32 *words = to->address.words;
	__u16 family = name[0];

	if (family == AF_INET6) {
		words[0] = name[2];
		words[1] = name[3];
		words[2] = name[4];
		words[3] = name[5];
	} else if (family == AF_INET || !family) {
		words[2] = IPV4_IN_IPV6;
		words[3] = name[1];
	} else {
		return;
	}
	to->port = __builtin_bswap16(name[0] >> 16);
}

static __always_inline void peer_of_message(struct peer *to, struct msghdr *message, const bool typed)
{
	__u32 name[6] = {};
	void *address = READ_FIELD(message, msg_name, typed);

	/* If helpers may not read kernel memory, the send is counted without its destination. */
	if (cfg_may_read && address && !bpf_probe_read_kernel(name, sizeof(name), address))
		read_name(to, name);
}

#ifndef BCC
/* What a task has done so far in a call with datagrams, by task. */
struct progress {
	/* A datagram that was received, if `is_pending`. The kernel stores the sender's name when the call is over, or
	 * before the next message of recvmmsg(2). */
	struct peer last;	/* of the socket, as in struct socket_facts */
	__u64 bytes;
	__u64 name;		/* where the kernel stores the sender's name */
	__u32 name_length;	/* the size of that buffer */
	__u32 messages;		/* of sendmmsg(2) or recvmmsg(2) so far, including those that failed */
	__u16 local_port;
	__u8 direction;		/* enum direction */
	__u8 is_pending;
	char reserved[4];
};
_Static_assert(sizeof(struct progress) == 56, "progress has no padding");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DATAGRAMS);
	__type(key, __u64);
	__type(value, struct progress);
} network_progress SEC(".maps");

/* Whether one of the programs at sys_exit counts datagrams. Without it, nothing forgets the progress of a call. */
#define COUNTS_AT_EXIT (raw_counts_datagram || classic_counts_datagram)

/* Read the name of a peer from the memory of the current process. Only its first `length` bytes are valid. */
static __always_inline void read_user_name(struct peer *to, __u64 address, __u32 length)
{
	__u32 name[6] = {};
	bool is_whole;

	if (!address || length < 8)
		return;
	/* A struct sockaddr_in is shorter, and the page after it may not be mapped. */
	is_whole = length >= sizeof(name) && !bpf_probe_read_user(name, sizeof(name), (void *)address);
	if (!is_whole && bpf_probe_read_user(name, 8, (void *)address))
		return;
	if (is_whole || (__u16)name[0] != AF_INET6)
		read_name(to, name);
}

/* Return the index of the message that the current sendmmsg(2) has just sent. */
static __always_inline __u32 next_message(void)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct progress *progress = bpf_map_lookup_elem(&network_progress, &id), first = { .messages = 1 };

	if (progress)
		return progress->messages++;
	bpf_map_update_elem(&network_progress, &id, &first, BPF_ANY);
	return 0;
}

/* Read the receiver of a datagram from the arguments of the current system call. */
static __always_inline void peer_of_call(struct peer *to)
{
	struct socket_call call = {};

	read_call(&call);
	if (call.kind == CALL_SENDMSG)
		read_message(&call, 0);
	else if (call.kind == CALL_SENDMMSG && COUNTS_AT_EXIT)
		read_message(&call, next_message());
	else if (call.kind != CALL_SENDTO)
		return;
	read_user_name(to, call.name, call.name_length);
}

/* Count a pending datagram. Its sender is the last receiver, unless the kernel has stored the sender's name. */
SUBPROGRAM int count_pending(struct progress *progress, bool is_named)
{
	bool inbound = progress->direction == INBOUND;
	__u16 port = progress->local_port;
	struct peer from = {};

	if (is_named)
		read_user_name(&from, progress->name, progress->name_length);
	if (!from.port)
		from = progress->last;
	if (is_peer_selected(&from, inbound ? port : from.port, inbound))
		count_peer(progress->direction, &from, port | IPPROTO_UDP << 16, true, progress->bytes);
	return 0;
}

/* Handle a receive on an unconnected socket. If the current call reports the sender, leave the datagram until the
 * kernel has stored the sender's name. Return whether it was left. */
static __always_inline bool defer_datagram(struct sock *sk, const struct endpoint *end, bool consumed, long result,
					   const bool typed)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct progress now = {}, *before;
	struct socket_call call = {};
	struct socket_facts *facts;

	read_call(&call);
	if (call.kind == CALL_RECVMSG) {
		read_message(&call, 0);
	} else if (call.kind == CALL_RECVMMSG) {
		before = bpf_map_lookup_elem(&network_progress, &id);
		if (before) {
			now.messages = before->messages;
			if (before->is_pending)
				count_pending(before, true);
		}
		read_message(&call, now.messages++);
	} else if (call.kind != CALL_RECVFROM) {
		return false;
	}
	if (consumed && result >= 0 && call.name) {
		facts = use_socket(sk, end, true, typed);
		/* For an inbound socket, the sender matters only if the setting `ips` selects by address. */
		if (facts && (facts->direction != INBOUND || !cfg_any_address)) {
			now.last = facts->last;
			now.direction = facts->direction;
			now.bytes = result;
			now.name = call.name;
			now.name_length = call.name_length;
			now.local_port = end->local_port;
			now.is_pending = true;
		}
	}
	if (!now.is_pending && !now.messages)
		return false;
	return !bpf_map_update_elem(&network_progress, &id, &now, BPF_ANY) && now.is_pending;
}

/* Count the datagram that the returning call left pending, and forget the progress of the call. If a call fails after
 * it received a datagram, the datagram is gone, but its sender's name may not have been stored. */
static __always_inline int on_messages_exit(enum syscall_kind kind, long result)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct progress *progress = bpf_map_lookup_elem(&network_progress, &id);
	bool is_named;

	if (!progress)
		return 0;
	is_named = kind == CALL_RECVMMSG ? progress->messages <= result : result >= 0;
	if (progress->is_pending)
		count_pending(progress, is_named);
	bpf_map_delete_elem(&network_progress, &id);
	return 0;
}

#else
#define peer_of_call(to)
#define defer_datagram(sk, end, consumed, result, typed) false
#define COUNTS_AT_EXIT false
#endif

/* Remember the sender of a datagram, read from the headers of its packet. */
static __always_inline void remember_sender(struct sk_buff *skb, const bool typed)
{
	__u64 id = bpf_get_current_pid_tgid();
	void *head = READ_FIELD(skb, head, typed);
	__u16 network = READ_FIELD(skb, network_header, typed), transport = READ_FIELD(skb, transport_header, typed);
	struct peer from = {};
	__u8 ip[24] = {};
	__u16 port = 0;

	if (bpf_probe_read_kernel(ip, sizeof(ip), head + network) ||
	    bpf_probe_read_kernel(&port, sizeof(port), head + transport))
		return;
	if (ip[0] >> 4 == 6) {
		__builtin_memcpy(from.address.bytes, ip + 8, 16);
	} else {
		if (ip[9] != IPPROTO_UDP)
			return;
		from.address.words[2] = IPV4_IN_IPV6;
		__builtin_memcpy(from.address.bytes + 12, ip + 12, 4);
	}
	from.port = __builtin_bswap16(port);
	bpf_map_update_elem(&network_senders, &id, &from, BPF_ANY);
}

static __always_inline int on_consume_udp(struct sock *sk, struct sk_buff *skb, const bool typed)
{
	if (!READ_FIELD(sk, __sk_common.skc_dport, typed))
		remember_sender(skb, typed);
	return 0;
}

/* Return and forget the sender of the datagram that the current task has just received. */
static __always_inline void peer_of_received(struct peer *to)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct peer *from = bpf_map_lookup_elem(&network_senders, &id);

	if (!from)
		return;
	*to = *from;
	from->port = 0; /* The sender is valid for one datagram only. */
}

/* Called for each received datagram: void skb_consume_udp(struct sock *sk, struct sk_buff *skb, int len). */
SEC("fentry/skb_consume_udp")
int BPF_PROG(skb_consume_udp_fentry, struct sock *sk, struct sk_buff *skb)
{
	return on_consume_udp(sk, skb, true);
}

SEC("kprobe/skb_consume_udp")
int BPF_KPROBE(skb_consume_udp_kprobe, struct sock *sk, struct sk_buff *skb)
{
	return on_consume_udp(sk, skb, false);
}

#endif
