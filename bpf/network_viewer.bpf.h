/* SPDX-License-Identifier: GPL-2.0-only */
/* What processes do on TCP and UDP sockets, with whom, and how it is counted. */
#ifndef EBPFMON_NETWORK_VIEWER_BPF_H
#define EBPFMON_NETWORK_VIEWER_BPF_H

#include "ebpfmon.bpf.h"
#include "network_types.h"

/* So many processes, and as many destinations of processes, may be active in one interval before any lands in the
 * overflow. Two sides of 16,384 rows are 7.9 MB by process, 4.2 MB by remote and 3.7 MB by local port. */
#define ROWS 16384
/* Sockets whose owner and direction are known at once; of others they are found out anew. 10 MB. */
#define SOCKETS 65536
/* Tasks that have just taken a datagram off a socket without a peer of its own. 0.4 MB. */
#define DATAGRAMS 4096
/* Tasks that are within a call, where kprobes see it: a kretprobe has no arguments. 1.6 MB. */
#define CALLS 16384
/* Local ports with a listener. 0.3 MB. */
#define LISTENERS 16384
/* Networks that are selected by the setting `ips`; less than 1 MB. */
#define NETWORKS 4096

KNOB(__u8, cfg_any_port);	/* the setting `ports` selects them all */
KNOB(__u8, cfg_any_address);	/* so does `ips` */

struct network_counters {
	__u64 tcp_send_calls, tcp_send_errors, tcp_send_bytes;
	__u64 tcp_recv_calls, tcp_recv_errors, tcp_recv_bytes;
	__u64 tcp_close_calls, tcp_retransmits;
	__u64 tcp_accepted, tcp_connects_v4, tcp_connects_v6, tcp_connects_failed;
	__u64 udp_send_calls, udp_send_errors, udp_send_bytes;
	__u64 udp_recv_calls, udp_recv_errors, udp_recv_bytes;
};
PROCESS_TABLE(network, ROWS);

/* IPv6, or IPv4 as ::ffff:a.b.c.d; the bytes as they stand in a packet. */
union address {
	__u8 bytes[16];
	__u32 words[4];
	__u64 halves[2];
};

/* By whom, to where. */
struct outbound_key {
	struct process_key process;
	__u64 address_high, address_low;	/* bytes as in a packet */
	__u32 port;
	__u32 protocol;
};
_Static_assert(sizeof(struct outbound_key) == 40, "outbound_key has no padding");

struct outbound_counters {
	__u64 sent_calls, sent_bytes, received_calls, received_bytes, retransmits;
};
KEYED_TABLE(outbound, struct outbound_key, ROWS);

/* By whom, at which of this machine's ports. */
struct inbound_key {
	struct process_key process;
	__u32 port;
	__u32 protocol;
};
_Static_assert(sizeof(struct inbound_key) == 24, "inbound_key has no padding");

struct inbound_counters {
	__u64 sent_calls, sent_bytes, received_calls, received_bytes, retransmits;
};
KEYED_TABLE(inbound, struct inbound_key, ROWS);

/* The other end of a socket, or of one datagram. */
struct peer {
	union address address;
	__u16 port;
	char reserved[6];
};

enum direction { UNDECIDED, OUTBOUND, INBOUND };
enum wanted { NOT_ASKED, WANTED, UNWANTED };

/* What is known of a socket: whose it is, as of connect, accept or its first use, and which end called the other. */
struct socket_facts {
	struct process_key process;
	struct process_identity who;
	struct peer last;	/* whom it sent to, if it has no peer: where that must do for who sends to it */
	__u16 local_port;	/* as an address is used again, by another socket */
	__u8 direction;
	__u8 wanted;	/* of TCP: its peer never changes */
	__u8 owned;
	char reserved[3];
};
_Static_assert(sizeof(struct socket_facts) == 80, "socket_facts has no padding");

/* One end of a socket. */
struct endpoint {
	struct peer peer;	/* its port is 0 if the socket has none */
	__u16 local_port;
	__u16 protocol;
	bool inet6;	/* ... and not IPv4 in disguise */
};

struct listener {
	__u32 network;	/* namespace */
	__u16 port;
	__u16 protocol;
};

struct network_prefix {
	__u32 length;
	__u8 address[16];
};

#ifndef BCC
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
	__type(value, __u8);
} network_listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024); /* 64 ports each */
	__type(key, __u32);
	__type(value, __u64);
} network_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, NETWORKS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network_prefix);
	__type(value, __u8);
} network_networks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DATAGRAMS);
	__type(key, __u64);
	__type(value, struct peer);
} network_datagrams SEC(".maps");
#endif

/* Of struct sock, what is counted by. False for what is neither TCP nor UDP. */
static __always_inline bool read_endpoint(struct endpoint *to, void *sk, const bool typed)
{
	__u16 family = 0, port = 0;
	__u32 *words = to->peer.address.words;

	LOAD(typed, to->protocol, sk, struct sock, sk_protocol);
	if (to->protocol != IPPROTO_TCP && to->protocol != IPPROTO_UDP)
		return false;
	LOAD(typed, family, sk, struct sock, __sk_common.skc_family);
	LOAD(typed, port, sk, struct sock, __sk_common.skc_dport);
	LOAD(typed, to->local_port, sk, struct sock, __sk_common.skc_num);
	to->peer.port = __builtin_bswap16(port);
	if (family == AF_INET6 && HAS_FIELD(struct sock, __sk_common.skc_v6_daddr)) {
		LOAD(typed, words[0], sk, struct sock, __sk_common.skc_v6_daddr.in6_u.u6_addr32[0]);
		LOAD(typed, words[1], sk, struct sock, __sk_common.skc_v6_daddr.in6_u.u6_addr32[1]);
		LOAD(typed, words[2], sk, struct sock, __sk_common.skc_v6_daddr.in6_u.u6_addr32[2]);
		LOAD(typed, words[3], sk, struct sock, __sk_common.skc_v6_daddr.in6_u.u6_addr32[3]);
		to->inet6 = words[0] || words[1] || words[2] != IPV4_IN_IPV6;
		return true;
	}
	if (family != AF_INET)
		return false;
	words[0] = words[1] = 0;
	words[2] = IPV4_IN_IPV6;
	LOAD(typed, words[3], sk, struct sock, __sk_common.skc_daddr);
	to->inet6 = false;
	return true;
}

/* Whether somebody wants to see this peer, who is at this end's `port`, or at whose `port` this end is. Where the port is
 * this end's, it is shown as well for who is not known. */
static __always_inline bool is_selected(const struct peer *peer, __u16 port, bool may_be_unknown)
{
	struct network_prefix address = { .length = 128 };
	__u32 word = port >> 6;
	__u64 *ports;

	if (!cfg_any_port) {
		ports = bpf_map_lookup_elem(MAP(network_ports), &word);
		if (!ports || !(*ports >> (port & 63) & 1))
			return false;
	}
	if (cfg_any_address || (may_be_unknown && !peer->port))
		return true;
	__builtin_memcpy(address.address, peer->address.bytes, sizeof(address.address));
	return bpf_map_lookup_elem(MAP(network_networks), &address);
}

static __always_inline bool is_listened_at(void *sk, const struct endpoint *end, const bool typed)
{
	struct listener at = { .port = end->local_port, .protocol = end->protocol };
	void *net = 0;

	if (typed)
		sk = UNTRUSTED(sk, struct sock);
	LOAD(typed, net, sk, struct sock, __sk_common.skc_net.net);
	LOAD(typed, at.network, net, struct net, ns.inum);
	return bpf_map_lookup_elem(MAP(network_listeners), &at);
}

static __always_inline void listens(void *sk, const struct endpoint *end, const bool typed)
{
	struct listener at = { .port = end->local_port, .protocol = end->protocol };
	__u8 yes = 1;
	void *net = 0;

	if (typed)
		sk = UNTRUSTED(sk, struct sock);
	LOAD(typed, net, sk, struct sock, __sk_common.skc_net.net);
	LOAD(typed, at.network, net, struct net, ns.inum);
	bpf_map_update_elem(MAP(network_listeners), &at, &yes, BPF_ANY);
}

/* From now on this is known of a socket; the current process owns it if `owned`. */
static __always_inline struct socket_facts *now_known(void *sk, const struct endpoint *end, enum direction direction,
						      const bool owned)
{
	struct socket_facts facts = { .local_port = end->local_port, .direction = direction };
	__u64 address = (__u64)sk;

	facts.owned = owned;
	if (owned && cfg_rows) {
		current_process(&facts.process);
		identify(CURRENT_TASK(), &facts.who, CURRENT_IS_TYPED);
	}
	bpf_map_update_elem(MAP(network_sockets), &address, &facts, BPF_ANY);
	return bpf_map_lookup_elem(MAP(network_sockets), &address);
}

static __always_inline struct socket_facts *known(void *sk)
{
	__u64 address = (__u64)sk;

	return bpf_map_lookup_elem(MAP(network_sockets), &address);
}

/* A call of the current process that moved bytes. What is not known of the socket yet, its first use tells: who sends
 * before anything was received, calls; who receives first, is called. */
static __always_inline struct socket_facts *used(void *sk, const struct endpoint *end, bool received, const bool typed)
{
	struct socket_facts *facts = known(sk);
	enum direction direction;

	/* the kernel says when a TCP socket goes, of a UDP socket it does not */
	if (facts && end->protocol == IPPROTO_UDP && facts->local_port != end->local_port)
		facts = 0;
	if (facts && facts->owned)
		return facts;
	if (facts && facts->direction)
		direction = facts->direction;
	else if (is_listened_at(sk, end, typed))
		direction = INBOUND;
	else
		direction = end->peer.port || !received ? OUTBOUND : INBOUND;
	return now_known(sk, end, direction, true);
}

#define MOVED(to, received, bytes)                                                   \
	do {                                                                         \
		if (received) {                                                      \
			ADD(to, received_calls, 1);                                  \
			ADD(to, received_bytes, bytes);                              \
		} else {                                                             \
			ADD(to, sent_calls, 1);                                      \
			ADD(to, sent_bytes, bytes);                                  \
		}                                                                    \
	} while (0)

static __always_inline bool outbound_place(struct outbound_slots *to, const struct process_key *process,
					   const struct peer *peer, __u32 protocol)
{
	struct outbound_key key = {
		.process = *process,
		.address_high = peer->address.halves[0],
		.address_low = peer->address.halves[1],
		.port = peer->port,
		.protocol = protocol,
	};

	return outbound_slots(to, &key);
}

static __always_inline bool inbound_place(struct inbound_slots *to, const struct process_key *process, __u32 port,
					  __u32 protocol)
{
	struct inbound_key key = { .process = *process, .port = port, .protocol = protocol };

	return inbound_slots(to, &key);
}

/* Whether the socket's peer is selected, or where it has none, the datagram's. */
static __always_inline bool is_wanted(struct socket_facts *facts, const struct endpoint *end, const struct peer *peer)
{
	bool inbound = facts->direction == INBOUND, selected;
	__u16 port = inbound ? end->local_port : peer->port;

	if (end->protocol == IPPROTO_TCP && facts->wanted)
		return facts->wanted == WANTED;
	selected = is_selected(peer, port, inbound);
	if (end->protocol == IPPROTO_TCP)
		facts->wanted = selected ? WANTED : UNWANTED;
	return selected;
}

/* `datagram`: the other end of this datagram, where the socket has none. */
static __always_inline void count_destination(void *sk, struct endpoint *end, const struct peer *datagram,
					      bool received, __u64 bytes, const bool typed)
{
	const struct peer *peer = end->peer.port ? &end->peer : datagram;
	struct socket_facts *facts = used(sk, end, received, typed);
	struct process_key process = {};
	struct outbound_slots out;
	struct inbound_slots in;

	if (!facts || !is_wanted(facts, end, peer))
		return;
	if (cfg_rows)
		current_process(&process);
	if (facts->direction == INBOUND) {
		if (inbound_place(&in, &process, end->local_port, end->protocol))
			MOVED(&in, received, bytes);
	} else if (outbound_place(&out, &process, peer, end->protocol)) {
		MOVED(&out, received, bytes);
	}
}

/* The current process has sent or received, or tried to. `moved` false: it has only looked. */
static __always_inline void count_call(const struct endpoint *end, bool received, bool moved, long result)
{
	__u64 bytes = moved && result > 0 ? result : 0;
	bool failed = cfg_return && result < 0;
	struct network_slots to;

	if (!network_slots_in_task(&to))
		return;
	if (end->protocol == IPPROTO_TCP && received) {
		ADD(&to, tcp_recv_calls, 1);
		ADD(&to, tcp_recv_bytes, bytes);
		if (failed)
			ADD(&to, tcp_recv_errors, 1);
	} else if (end->protocol == IPPROTO_TCP) {
		ADD(&to, tcp_send_calls, 1);
		ADD(&to, tcp_send_bytes, bytes);
		if (failed)
			ADD(&to, tcp_send_errors, 1);
	} else if (received) {
		ADD(&to, udp_recv_calls, 1);
		ADD(&to, udp_recv_bytes, bytes);
		if (failed)
			ADD(&to, udp_recv_errors, 1);
	} else {
		ADD(&to, udp_send_calls, 1);
		ADD(&to, udp_send_bytes, bytes);
		if (failed)
			ADD(&to, udp_send_errors, 1);
	}
}

#endif
