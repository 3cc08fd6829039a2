/* SPDX-License-Identifier: GPL-2.0-only */
/* Datagrams of sockets without a peer of their own: to whom each is, and from whom. */
#ifndef EBPFMON_NETWORK_PEERS_BPF_H
#define EBPFMON_NETWORK_PEERS_BPF_H

#include "network_viewer.bpf.h"
#include "syscalls.bpf.h"

/* To whom is a datagram, of a socket without a peer of its own? */
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

static __always_inline void peer_of_message(struct peer *to, void *message, const bool typed)
{
	__u32 name[6] = {};
	void *at = 0;

	LOAD(typed, at, message, struct msghdr, msg_name);
	/* better a send without its destination than none */
	if (cfg_may_read && at && !bpf_probe_read_kernel(name, sizeof(name), at))
		read_name(to, name);
}

/* The peer that a socket without one sent to last: where a datagram does not tell. */
static __always_inline void peer_of_last(struct peer *to, void *sk)
{
	struct socket_facts *facts = known(sk);

	if (facts)
		*to = facts->last;
}

static __always_inline void sent_last(void *sk, const struct peer *datagram)
{
	struct socket_facts *facts = known(sk);

	if (facts)
		facts->last = *datagram;
}

#ifndef BCC
static __always_inline void read_user_name(struct peer *to, __u64 at)
{
	__u32 name[6] = {};

	/* an IPv4 name is shorter, and may be the end of what is mapped */
	if (at && (!bpf_probe_read_user(name, sizeof(name), (void *)at) || !bpf_probe_read_user(name, 16, (void *)at)))
		read_name(to, name);
}

/* Where in sendmmsg(2)'s messages a task is: the tracepoint does not say. */
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

static __always_inline __u64 message_of_batch(__u64 messages, __u32 count, long result)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct batch *known = bpf_map_lookup_elem(MAP(network_batches), &id), batch = { .messages = messages };
	__u64 index = known && known->messages == messages && known->next < count ? known->next : 0;

	/* what fails is the last that it tries */
	batch.next = result < 0 ? 0 : index + 1;
	bpf_map_update_elem(MAP(network_batches), &id, &batch, BPF_ANY);
	return messages + index * MMSGHDR_SIZE;
}

/* ... by the arguments of the system call that the current task is in. */
static __always_inline void peer_of_call(struct peer *to, long result)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	__u64 at = 0, message = REGISTER(regs, SYSCALL_ARG2);
	__u32 nr = REGISTER(regs, SYSCALL_NR);

	if (in_32_bit_call())
		return;
	if (nr == NR_SENDTO) {
		at = REGISTER(regs, SYSCALL_ARG5);
	} else if (nr == NR_SENDMSG || nr == NR_SENDMMSG) {
		if (nr == NR_SENDMMSG)
			message = message_of_batch(message, REGISTER(regs, SYSCALL_ARG3), result);
		bpf_probe_read_user(&at, sizeof(at), (void *)message);
	}
	read_user_name(to, at);
}
#else
#define peer_of_call(to, result)
#endif

/* Who sent a datagram, to a socket without a peer of its own: by the packet that it came in. */
static __always_inline void received(void *skb, const bool typed)
{
	__u64 id = bpf_get_current_pid_tgid();
	__u16 network = 0, transport = 0, port = 0;
	struct peer from = {};
	__u8 ip[24] = {};
	void *head = 0;

	LOAD(typed, head, skb, struct sk_buff, head);
	LOAD(typed, network, skb, struct sk_buff, network_header);
	LOAD(typed, transport, skb, struct sk_buff, transport_header);
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
	bpf_map_update_elem(MAP(network_datagrams), &id, &from, BPF_ANY);
}

/* void skb_consume_udp(struct sock *sk, struct sk_buff *skb, int len): for each datagram that was received */
static __always_inline int on_consume_udp(void *sk, void *skb, const bool typed)
{
	__u16 peer = 0;

	LOAD(typed, peer, sk, struct sock, __sk_common.skc_dport);
	if (!peer)
		received(skb, typed);
	return 0;
}

#ifndef BCC
SEC("fentry/skb_consume_udp")
int datagram__trampoline__skb_consume_udp(__u64 *ctx)
{
	return on_consume_udp((void *)ctx[0], (void *)ctx[1], true);
}
#endif

SEC("kprobe/skb_consume_udp")
int datagram__kprobe__skb_consume_udp(struct pt_regs *ctx)
{
	return on_consume_udp((void *)KPROBE_ARG1(ctx), (void *)KPROBE_ARG2(ctx), false);
}

/* From whom was the datagram that the current task has just taken off a socket without a peer of its own? */
static __always_inline void peer_of_received(struct peer *to)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct peer *from = bpf_map_lookup_elem(MAP(network_datagrams), &id);

	if (!from)
		return;
	*to = *from;
	from->port = 0; /* once */
}

/* ... or by what the system call says at its end. */
#ifndef BCC
/* A datagram that is on its way to a caller who wants to know whom it is from: the kernel tells when the call ends. */
struct told {
	__u64 socket;
	__u16 local_port;
	__u16 protocol;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DATAGRAMS);
	__type(key, __u64);
	__type(value, struct told);
} network_told SEC(".maps");

static __always_inline bool is_told_later(void *sk, const struct endpoint *end, const bool typed)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct told told = { .socket = (__u64)sk, .local_port = end->local_port, .protocol = end->protocol };
	__u64 id = bpf_get_current_pid_tgid(), name = 1;
	__u32 nr = REGISTER(regs, SYSCALL_NR);
	struct socket_facts *facts;

	if (in_32_bit_call())
		return false;
	if (nr == NR_RECVFROM)
		name = REGISTER(regs, SYSCALL_ARG5);
	else if (nr == NR_RECVMSG)
		bpf_probe_read_user(&name, sizeof(name), (void *)REGISTER(regs, SYSCALL_ARG2));
	else if (nr != NR_RECVMMSG)
		return false;
	facts = used(sk, end, true, typed);
	/* who sent to one of this machine's ports matters to the filter alone */
	if (!name || !facts || (facts->direction == INBOUND && cfg_any_address))
		return false;
	return !bpf_map_update_elem(MAP(network_told), &id, &told, BPF_ANY);
}

static __always_inline void tell(struct told *told, __u64 name, __u64 bytes)
{
	struct endpoint end = { .local_port = told->local_port, .protocol = told->protocol };
	void *sk = (void *)told->socket;
	struct peer from = {};

	read_user_name(&from, name);
	if (!from.port)
		peer_of_last(&from, sk);
	count_destination(sk, &end, &from, true, bytes, false);
}

static __always_inline struct told take_told(void)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct told *found = bpf_map_lookup_elem(MAP(network_told), &id), told = {};

	if (found) {
		told = *found;
		bpf_map_delete_elem(MAP(network_told), &id);
	}
	return told;
}

static __always_inline int on_recvfrom_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct told told = take_told();

	if (told.socket && ctx->ret >= 0)
		tell(&told, REGISTER(regs, SYSCALL_ARG5), ctx->ret);
	return 0;
}

static __always_inline int on_recvmsg_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct told told = take_told();
	__u64 name = 0;

	if (!told.socket || ctx->ret < 0)
		return 0;
	bpf_probe_read_user(&name, sizeof(name), (void *)REGISTER(regs, SYSCALL_ARG2));
	tell(&told, name, ctx->ret);
	return 0;
}

struct messages {
	struct told told;
	__u64 first;
};

static long on_message(__u32 index, struct messages *messages)
{
	__u64 message = messages->first + (__u64)index * MMSGHDR_SIZE, name = 0;
	__u32 bytes = 0;

	bpf_probe_read_user(&name, sizeof(name), (void *)message);
	bpf_probe_read_user(&bytes, sizeof(bytes), (void *)message + MMSGHDR_LENGTH);
	tell(&messages->told, name, bytes);
	return 0;
}

static __always_inline int on_recvmmsg_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct messages messages = { take_told(), REGISTER(regs, SYSCALL_ARG2) };

	if (messages.told.socket && ctx->ret > 0)
		bpf_loop(ctx->ret, on_message, &messages, 0);
	return 0;
}

/* Three system calls, and one event. */
SEC("tp/syscalls/sys_exit_recvfrom")
int datagram__tracepoint__syscalls_sys_exit_recvfrom(void *ctx)
{
	return on_recvfrom_exit(ctx);
}

SEC("tp/syscalls/sys_exit_recvmsg")
int datagram__tracepoint__syscalls_sys_exit_recvfrom__and_recvmsg(void *ctx)
{
	return on_recvmsg_exit(ctx);
}

SEC("tp/syscalls/sys_exit_recvmmsg")
int datagram__tracepoint__syscalls_sys_exit_recvfrom__and_recvmmsg(void *ctx)
{
	return on_recvmmsg_exit(ctx);
}
#else
#define is_told_later(sk, end, typed) false
#endif

#endif
