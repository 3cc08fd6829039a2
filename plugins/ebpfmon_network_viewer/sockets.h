/* SPDX-License-Identifier: GPL-2.0-only */
/* Sockets: their endpoints, owner and direction, and which local ports have a listener. */
#ifndef EBPFMON_SOCKETS_H
#define EBPFMON_SOCKETS_H

#include "ebpfmon.bpf.h"
#include "socket_types.h"

/* Sockets whose owner and direction are remembered; those of older sockets are determined again at their next use.
 * 10 MB. */
#define SOCKETS 65536
/* Local ports with a listener. 1.4 MB. */
#define LISTENERS 16384
/* UDP sockets of servers that are older than ebpfmon. 1.3 MB. */
#define SERVERS 16384

/* An IPv6 address, or an IPv4 address as ::ffff:a.b.c.d, in network order. */
union address {
	__u8 bytes[16];
	__u32 words[4];
	__u64 halves[2];
};

/* The remote end of a socket or of one datagram. */
struct peer {
	union address address;
	__u16 port;
	char reserved[6];
};

enum direction { UNDECIDED, OUTBOUND, INBOUND };
enum selection { NOT_EVALUATED, SELECTED, NOT_SELECTED };

/* What is remembered about a socket. */
struct socket_facts {
	struct caller owner;	/* TCP: who connected, accepted, used or closed it last */
	struct peer last;	/* UDP: the last receiver, assumed to send if a sender is unknown */
	__u64 inode;	/* distinguishes a new socket at the same address; 0 for TCP */
	__u8 direction;	/* enum direction */
	__u8 selected;	/* enum selection; cached for TCP only, where the peer never changes */
	__u8 owned;	/* `owner` is set */
	char reserved[5];
};
_Static_assert(sizeof(struct socket_facts) == 88, "socket_facts has no padding");

/* The endpoints of a socket. */
struct endpoint {
	struct peer peer;	/* port 0 if the socket is not connected */
	__u16 local_port;
	__u16 protocol;
	bool inet6;	/* the peer is IPv6 and not IPv4-mapped */
};

struct listener {
	__u32 network;	/* inode of the network namespace */
	__u16 port;
	__u16 protocol;
};

/* A socket that listens at a local port. Both are 0 for TCP. */
struct listening {
	__u64 socket;	/* the address of its struct sock */
	__u64 inode;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SOCKETS);
	__type(key, __u64);
	__type(value, struct socket_facts);
} network_sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, LISTENERS);
	__type(key, struct listener);
	__type(value, struct listening);
} network_listeners SEC(".maps");

/* The inode numbers of the UDP sockets that were servers before ebpfmon started: see listening.py. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SERVERS);
	__type(key, __u64);
	__type(value, __u8);
} network_servers SEC(".maps");

/* Return the local port of a socket. The kernel takes a TCP socket from its port when the connection is over, but programs
 * can still receive what has arrived, and a send during which the other end resets the connection succeeds. skc_num is
 * then 0, whereas inet_sport keeps the port. */
static __always_inline __u16 local_port_of(struct sock *sk, const bool typed)
{
	struct inet_sock *inet = (struct inet_sock *)sk;

#ifndef BCC
	if (cfg_may_cast)
		return __builtin_bswap16(READ_FIELD(UNTRUSTED(inet), inet_sport, true));
	if (!cfg_may_read)
		return READ_FIELD(sk, __sk_common.skc_num, typed);
#endif
	return __builtin_bswap16(READ_FIELD(inet, inet_sport, false));
}

/* Read the endpoints of a socket. Return false if it is neither TCP nor UDP: a raw socket may have their protocol
 * number, and UDP-Lite, L2TP and others have SOCK_DGRAM sockets. */
static __always_inline bool read_endpoint(struct endpoint *to, struct sock *sk, const bool typed)
{
	__u16 family, type = READ_FIELD(sk, sk_type, typed);
	__u32 *words = to->peer.address.words;

	to->protocol = READ_FIELD(sk, sk_protocol, typed);
	if (!(to->protocol == IPPROTO_TCP && type == SOCK_STREAM) &&
	    !(to->protocol == IPPROTO_UDP && type == SOCK_DGRAM))
		return false;
	family = READ_FIELD(sk, __sk_common.skc_family, typed);
	to->peer.port = __builtin_bswap16(READ_FIELD(sk, __sk_common.skc_dport, typed));
	to->local_port = local_port_of(sk, typed);
	if (family == AF_INET6 && bpf_core_field_exists(struct sock, __sk_common.skc_v6_daddr)) {
		words[0] = READ_FIELD(sk, __sk_common.skc_v6_daddr.in6_u.u6_addr32[0], typed);
		words[1] = READ_FIELD(sk, __sk_common.skc_v6_daddr.in6_u.u6_addr32[1], typed);
		words[2] = READ_FIELD(sk, __sk_common.skc_v6_daddr.in6_u.u6_addr32[2], typed);
		words[3] = READ_FIELD(sk, __sk_common.skc_v6_daddr.in6_u.u6_addr32[3], typed);
		to->inet6 = words[0] || words[1] || words[2] != IPV4_IN_IPV6;
		return true;
	}
	if (family != AF_INET)
		return false;
	words[0] = words[1] = 0;
	words[2] = IPV4_IN_IPV6;
	words[3] = READ_FIELD(sk, __sk_common.skc_daddr, typed);
	to->inet6 = false;
	return true;
}

/* Return whether a TCP socket is a part of an MPTCP connection. The kernel makes such sockets, and programs cannot
 * reach them. If the other end speaks plain TCP, accept(2) returns a plain TCP socket, for which this is false. */
static __always_inline bool is_subflow(struct sock *sk)
{
	struct tcp_sock *tcp = (struct tcp_sock *)sk;

#ifdef BCC
#pragma ebpfmon if IS_ENABLED(CONFIG_MPTCP)
	return READ_FIELD(tcp, is_mptcp, false);
#pragma ebpfmon else
	return false;
#pragma ebpfmon endif
#else
	if (!bpf_core_field_exists(struct tcp_sock, is_mptcp))
		return false;
	if (cfg_may_cast)
		return READ_FIELD(UNTRUSTED(tcp), is_mptcp, true);
	return cfg_may_read && READ_FIELD(tcp, is_mptcp, false);
#endif
}

/* Return the struct sock of a struct socket, or 0. */
static __always_inline struct sock *sk_of(struct socket *socket, const bool typed)
{
	return READ_FIELD(socket, sk, typed);
}

/* Return the inode number of a socket, as ss(8) and /proc/net show it. The kernel reuses a number only after 2^32
 * others, but the memory of a struct sock at once. The number is 0 if no process has the socket open, for example
 * because it was closed. */
static __always_inline __u64 inode_of(struct sock *sk, const bool typed)
{
	struct socket *socket;
	struct inode *inode;
	struct file *file;

#ifndef BCC
	if (bpf_core_field_exists(struct sock, sk_ino))
		return READ_FIELD(sk, sk_ino, typed);
#endif
	if (typed)
		sk = UNTRUSTED(sk);
	socket = READ_FIELD(sk, sk_socket, typed);
	file = READ_FIELD(socket, file, typed);
	inode = READ_FIELD(file, f_inode, typed);
	return READ_FIELD(inode, i_ino, typed);
}

/* Return whether bind(2) gave a socket its local address or port. */
static __always_inline bool is_bound(struct sock *sk, const bool typed)
{
#ifdef BCC
	return true; /* BCC cannot read a bit field. */
#else
	return (typed ? BPF_CORE_READ_BITFIELD(sk, sk_userlocks) : BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks)) &
	       BIND_LOCKS;
#endif
}

static __always_inline struct listener listener_of(struct sock *sk, const struct endpoint *end, const bool typed)
{
	struct listener listener = { .port = end->local_port, .protocol = end->protocol };
	struct net *net;

	if (typed)
		sk = UNTRUSTED(sk);
	net = READ_FIELD(sk, __sk_common.skc_net.net, typed);
	listener.network = READ_FIELD(net, ns.inum, typed);
	return listener;
}

/* Return whether a UDP listener still exists. If its memory cannot be read, assume that it does not. */
static __always_inline bool still_listens(const struct listening *listening)
{
	struct sock *sk = (struct sock *)listening->socket;

#ifndef BCC
	if (cfg_may_cast)
		return inode_of(UNTRUSTED(sk), true) == listening->inode;
#endif
	return cfg_may_read && inode_of(sk, false) == listening->inode;
}

/* Return whether the local port of a socket has a listener. A TCP listener may have ended since, because the
 * connections that it accepted stay inbound. A UDP listener must still exist, because a client may use its port next. */
static __always_inline bool is_listened_at(struct sock *sk, const struct endpoint *end, const bool typed)
{
	struct listener listener = listener_of(sk, end, typed);
	struct listening *listening = bpf_map_lookup_elem(&network_listeners, &listener);

	if (!listening)
		return false;
	return end->protocol == IPPROTO_TCP || still_listens(listening);
}

static __always_inline void remember_listener(struct sock *sk, const struct endpoint *end, const bool typed)
{
	struct listener listener = listener_of(sk, end, typed);
	struct listening listening = {};

	if (end->protocol == IPPROTO_UDP) {
		listening.socket = (__u64)sk;
		listening.inode = inode_of(sk, typed);
		if (!listening.inode)
			return;
	}
	bpf_map_update_elem(&network_listeners, &listener, &listening, BPF_ANY);
}

/* Return what is known about a socket, or 0. TCP sockets are forgotten when they are freed. No event reports that a UDP
 * socket is freed, so what is known may be about an earlier socket at the same address. */
static __always_inline struct socket_facts *find_socket(struct sock *sk, const struct endpoint *end, const bool typed)
{
	__u64 address = (__u64)sk;
	struct socket_facts *facts = bpf_map_lookup_elem(&network_sockets, &address);

	if (facts && end->protocol != IPPROTO_TCP && facts->inode != inode_of(sk, typed))
		return 0;
	return facts;
}

/* Remember a socket. The current caller becomes its owner if `owned`. */
SUBPROGRAM struct socket_facts *store_facts(__u64 address, __u64 inode, enum direction direction, bool owned)
{
	struct socket_facts facts = { .inode = inode, .direction = direction, .owned = owned };

	if (owned && cfg_rows)
		current_caller(&facts.owner);
	bpf_map_update_elem(&network_sockets, &address, &facts, BPF_ANY);
	return bpf_map_lookup_elem(&network_sockets, &address);
}

static __always_inline struct socket_facts *remember_socket(struct sock *sk, const struct endpoint *end,
							    enum direction direction, const bool owned,
							    const bool typed)
{
	__u64 inode = end->protocol == IPPROTO_TCP ? 0 : inode_of(sk, typed);

	return store_facts((__u64)sk, inode, direction, owned);
}

/* Make the current caller the owner of a socket. The facts are replaced as a whole, because an interrupt may read them at
 * the same time. Return the facts. */
SUBPROGRAM struct socket_facts *replace_owner(__u64 address, struct socket_facts *facts)
{
	struct socket_facts now = *facts;
	__u64 *new = (void *)&now.owner, *old = (void *)&facts->owner;
	bool differs = !facts->owned;

	__builtin_memset(&now.owner, 0, sizeof(now.owner));
	now.owned = true;
	if (cfg_rows)
		current_caller(&now.owner);
#pragma unroll
	for (int i = 0; i < sizeof(now.owner) / 8; i++)
		differs |= new[i] != old[i];
	if (!differs)
		return facts;
	bpf_map_update_elem(&network_sockets, &address, &now, BPF_ANY);
	return bpf_map_lookup_elem(&network_sockets, &address);
}

static __always_inline struct socket_facts *own_socket(struct sock *sk, struct socket_facts *facts)
{
	if (!cfg_rows && facts->owned)
		return facts;
#ifndef BCC
	if (facts->owned && is_current(&facts->owner, (__u64 *)facts->owner.identity.comm))
		return facts;
#endif
	return replace_owner((__u64)sk, facts);
}

static __always_inline int forget_socket(struct sock *sk)
{
	__u64 address = (__u64)sk;

	bpf_map_delete_elem(&network_sockets, &address);
	return 0;
}

/* Return the direction of a socket, given its first transfer that ebpfmon sees. A socket whose local port has a listener
 * is inbound. Any other TCP connection is outbound: an accepted one has a direction already. A UDP socket is outbound if
 * it sends first, and inbound if it receives first. A connected socket that was never bound is a client's, and has sent
 * before ebpfmon saw it. */
static __always_inline enum direction direction_of(struct sock *sk, const struct endpoint *end, bool received,
						   const bool typed)
{
	__u64 inode;

	if (is_listened_at(sk, end, typed))
		return INBOUND;
	if (end->protocol == IPPROTO_TCP)
		return OUTBOUND;
	inode = inode_of(sk, typed);
	if (bpf_map_lookup_elem(&network_servers, &inode))
		return INBOUND;
	return received && (!end->peer.port || is_bound(sk, typed)) ? INBOUND : OUTBOUND;
}

/* Return the facts about a socket that the current process has just used for a transfer, and make the process the owner
 * of a TCP socket. A UDP socket needs no owner, because nothing is counted for it outside of calls. */
static __always_inline struct socket_facts *use_socket(struct sock *sk, const struct endpoint *end, bool received,
						       const bool typed)
{
	struct socket_facts *facts = find_socket(sk, end, typed);
	bool udp = end->protocol == IPPROTO_UDP;
	enum direction direction;

	if (facts && facts->direction)
		return udp ? facts : own_socket(sk, facts);
	direction = direction_of(sk, end, received, typed);
	if (direction == INBOUND && udp && !end->peer.port)
		remember_listener(sk, end, typed);
	return remember_socket(sk, end, direction, !udp, typed);
}

/* A kprobe stores the arguments of a call for the kretprobe, which has none. Each function has its own entry, because a
 * retransmission may happen in the middle of a send. */
enum function { SENDMSG, RECVMSG, SENDPAGE, SPLICE_READ, RETRANSMIT, SYNACK };

/* How many such calls can be in progress at once. 1.6 MB. */
#define CALLS 16384

struct call {
	__u64 object;	/* the first argument: a struct socket or a struct sock */
	__u64 second;
	__u64 flags;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CALLS);
	__type(key, __u64);
	__type(value, struct call);
} network_calls SEC(".maps");

static __always_inline __u64 call_id(enum function function)
{
	return bpf_get_current_pid_tgid() | (__u64)function << 24; /* A PID has 22 bits. */
}

static __always_inline int keep_call(enum function function, void *object, void *second, __u64 flags)
{
	struct call call = { (__u64)object, (__u64)second, flags };
	__u64 id = call_id(function);

	bpf_map_update_elem(&network_calls, &id, &call, BPF_ANY);
	return 0;
}

/* Return and forget the call that the current task returns from. Its object is 0 if the entry was missed. */
static __always_inline struct call take_call(enum function function)
{
	__u64 id = call_id(function);
	struct call *stored = bpf_map_lookup_elem(&network_calls, &id), call = {};

	if (stored)
		call = *stored;
	bpf_map_delete_elem(&network_calls, &id);
	return call;
}

#endif
