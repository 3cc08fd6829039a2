/* SPDX-License-Identifier: GPL-2.0-only */
/* Datagrams of unconnected sockets: the receiver or the sender of each. */
#ifndef EBPFMON_DATAGRAMS_H
#define EBPFMON_DATAGRAMS_H

#include "destinations.h"
#include "syscalls.bpf.h"

/* Tasks that are sending or receiving a datagram on an unconnected socket. 0.4 MB for each of the three maps. */
#define DATAGRAMS 4096

/* The sender of the datagram that a task has just received, by task. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DATAGRAMS);
	__type(key, __u64);
	__type(value, struct peer);
} network_datagrams SEC(".maps");

/* The position of a task in the messages of sendmmsg(2), which the tracepoint does not report, by task. */
struct batch {
	__u64 messages;
	__u64 next;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DATAGRAMS);
	__type(key, __u64);
	__type(value, struct batch);
} network_batches SEC(".maps");

/* A datagram received by a call that asks for the sender. The kernel stores the sender's address when the call ends. */
struct pending {
	__u64 socket;
	__u16 local_port;
	__u16 protocol;
	__u32 reserved;
};
_Static_assert(sizeof(struct pending) == 16, "pending has no padding");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DATAGRAMS);
	__type(key, __u64);
	__type(value, struct pending);
} network_pending SEC(".maps");

/* Convert a struct sockaddr_in or sockaddr_in6. */
static __always_inline void read_name(struct peer *to, const __u32 *name)
{
	__u32 *words = to->address.words;

	to->port = __builtin_bswap16(name[0] >> 16);
	if ((name[0] & 0xffff) == AF_INET6) {
		words[0] = name[2];
		words[1] = name[3];
		words[2] = name[4];
		words[3] = name[5];
	} else {
		words[2] = IPV4_IN_IPV6;
		words[3] = name[1];
	}
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
static __always_inline void read_user_name(struct peer *to, __u64 address)
{
	__u32 name[6] = {};

	/* A struct sockaddr_in is shorter, and the page after it may not be mapped. */
	if (address && (!bpf_probe_read_user(name, sizeof(name), (void *)address) ||
			!bpf_probe_read_user(name, 16, (void *)address)))
		read_name(to, name);
}

static __always_inline __u64 message_of_batch(__u64 messages, __u32 messages_count, long result)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct batch *known = bpf_map_lookup_elem(&network_batches, &id), batch = { .messages = messages };
	__u64 index = known && known->messages == messages && known->next < messages_count ? known->next : 0;

	/* sendmmsg(2) stops at the first message that fails. */
	batch.next = result < 0 ? 0 : index + 1;
	bpf_map_update_elem(&network_batches, &id, &batch, BPF_ANY);
	return messages + index * MMSGHDR_SIZE;
}

/* Read the receiver of a datagram from the arguments of the current system call. */
static __always_inline void peer_of_call(struct peer *to, long result)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	__u64 address = 0, message = SYSCALL_ARG2(regs);
	__u32 nr = SYSCALL_NR(regs);

	if (in_32_bit_call())
		return;
	if (nr == NR_SENDTO) {
		address = SYSCALL_ARG5(regs);
	} else if (nr == NR_SENDMSG || nr == NR_SENDMMSG) {
		if (nr == NR_SENDMMSG)
			message = message_of_batch(message, SYSCALL_ARG3(regs), result);
		bpf_probe_read_user(&address, sizeof(address), (void *)message);
	}
	read_user_name(to, address);
}
#else
#define peer_of_call(to, result)
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
	bpf_map_update_elem(&network_datagrams, &id, &from, BPF_ANY);
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
	struct peer *from = bpf_map_lookup_elem(&network_datagrams, &id);

	if (!from)
		return;
	*to = *from;
	from->port = 0; /* The sender is valid for one datagram only. */
}

#ifndef BCC
/* If the current call reports the sender of a datagram when it returns, leave the datagram to that point, where it is
 * counted. Return whether it was left. */
static __always_inline bool defer_datagram(struct sock *sk, const struct endpoint *end, const bool typed)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct pending pending = { .socket = (__u64)sk, .local_port = end->local_port, .protocol = end->protocol };
	__u64 id = bpf_get_current_pid_tgid(), name = 1;
	__u32 nr = SYSCALL_NR(regs);
	struct socket_facts *facts;

	if (in_32_bit_call())
		return false;
	if (nr == NR_RECVFROM)
		name = SYSCALL_ARG5(regs);
	else if (nr == NR_RECVMSG)
		bpf_probe_read_user(&name, sizeof(name), (void *)SYSCALL_ARG2(regs));
	else if (nr != NR_RECVMMSG)
		return false;
	facts = use_socket(sk, end, true, typed);
	/* For an inbound socket, the sender matters only if the setting `ips` selects by address. */
	if (!name || !facts || (facts->direction == INBOUND && cfg_any_address))
		return false;
	return !bpf_map_update_elem(&network_pending, &id, &pending, BPF_ANY);
}

static __always_inline void count_pending(struct pending *pending, __u64 name, __u64 bytes)
{
	struct endpoint end = { .local_port = pending->local_port, .protocol = pending->protocol };
	struct sock *sk = (void *)pending->socket;
	struct peer from = {};

	read_user_name(&from, name);
	count_destination(sk, &end, &from, true, bytes, false);
}

static __always_inline struct pending take_pending(void)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct pending *stored = bpf_map_lookup_elem(&network_pending, &id), pending = {};

	if (stored) {
		pending = *stored;
		bpf_map_delete_elem(&network_pending, &id);
	}
	return pending;
}

static __always_inline int on_recvfrom_exit(long result)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct pending pending = take_pending();

	if (pending.socket && result >= 0)
		count_pending(&pending, SYSCALL_ARG5(regs), result);
	return 0;
}

static __always_inline int on_recvmsg_exit(long result)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct pending pending = take_pending();
	__u64 name = 0;

	if (!pending.socket || result < 0)
		return 0;
	bpf_probe_read_user(&name, sizeof(name), (void *)SYSCALL_ARG2(regs));
	count_pending(&pending, name, result);
	return 0;
}

struct messages {
	struct pending pending;
	__u64 first;
};

static long on_message(__u32 index, struct messages *messages)
{
	__u64 message = messages->first + (__u64)index * MMSGHDR_SIZE, name = 0;
	__u32 bytes = 0;

	bpf_probe_read_user(&name, sizeof(name), (void *)message);
	bpf_probe_read_user(&bytes, sizeof(bytes), (void *)message + MMSGHDR_LENGTH);
	count_pending(&messages->pending, name, bytes);
	return 0;
}

static __always_inline int on_recvmmsg_exit(long result)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct messages messages = { take_pending(), SYSCALL_ARG2(regs) };

	if (messages.pending.socket && result > 0)
		bpf_loop(result, on_message, &messages, 0);
	return 0;
}
#else
#define defer_datagram(sk, end, typed) false
#endif

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

/* These three system calls are one event. */
SEC("tp/syscalls/sys_exit_recvfrom")
int sys_exit_recvfrom_tp(struct trace_event_raw_sys_exit *ctx)
{
	return on_recvfrom_exit(ctx->ret);
}

SEC("tp/syscalls/sys_exit_recvmsg")
int sys_exit_recvmsg_tp(struct trace_event_raw_sys_exit *ctx)
{
	return on_recvmsg_exit(ctx->ret);
}

SEC("tp/syscalls/sys_exit_recvmmsg")
int sys_exit_recvmmsg_tp(struct trace_event_raw_sys_exit *ctx)
{
	return on_recvmmsg_exit(ctx->ret);
}

#endif
