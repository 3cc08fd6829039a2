/* SPDX-License-Identifier: GPL-2.0-only */
/* Destinations: what each process sends to and receives from each selected peer, or at each local port. */
#ifndef EBPFMON_DESTINATIONS_H
#define EBPFMON_DESTINATIONS_H

#include "sockets.h"

/* Pairs of process and destination that can be active in one interval before the table overflows. Two buffers of 16,384
 * rows are 4.7 MB for outbound and 4.2 MB for inbound destinations. The setting table_size overrides it. */
#define DESTINATIONS 16384
/* Networks that the setting `ips` can select. Less than 1 MB. */
#define NETWORKS 4096
/* Elements of the bitmap of ports, with 64 ports each. */
#define PORT_WORDS 1024

const volatile __u8 cfg_any_port = 0;		/* the setting `ports` selects every port */
const volatile __u8 cfg_any_address = 0;	/* the setting `ips` selects every address */

/* Outbound: a process and a remote port, protocol and address. */
struct outbound_key {
	struct process_key process;
	__u64 address_high, address_low;	/* in network order */
	__u32 port;
	__u32 protocol;
};
_Static_assert(sizeof(struct outbound_key) == 40, "outbound_key has no padding");

struct outbound_counters {
	__u64 sent_calls, sent_bytes, received_calls, received_bytes, retransmits;
};
#define TABLE outbound
#define TABLE_SIZE DESTINATIONS
#include "keyed_table.bpf.h"

/* Inbound: a process and a local port and protocol. */
struct inbound_key {
	struct process_key process;
	__u32 port;
	__u32 protocol;
};
_Static_assert(sizeof(struct inbound_key) == 24, "inbound_key has no padding");

struct inbound_counters {
	__u64 sent_calls, sent_bytes, received_calls, received_bytes, retransmits;
};
#define TABLE inbound
#define TABLE_SIZE DESTINATIONS
#include "keyed_table.bpf.h"

struct network_prefix {
	__u32 length;
	__u8 address[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORT_WORDS);
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

/* Return whether the selectors include this port and peer. `port` is the remote port of an outbound destination, or the
 * local port of an inbound one, whose peer `may_be_unknown`. */
static __always_inline bool is_peer_selected(const struct peer *peer, __u16 port, bool may_be_unknown)
{
	struct network_prefix address = { .length = 128 };
	__u32 word = port >> 6;
	__u64 *ports;

	if (!cfg_any_port) {
		ports = bpf_map_lookup_elem(&network_ports, &word);
		if (!ports || !(*ports >> (port & 63) & 1))
			return false;
	}
	if (cfg_any_address || (may_be_unknown && !peer->port))
		return true;
	__builtin_memcpy(address.address, peer->address.bytes, sizeof(address.address));
	return bpf_map_lookup_elem(&network_networks, &address);
}

/* Return whether the selectors include a call. `peer` is the peer of the socket or of the datagram. */
static __always_inline bool is_selected(struct socket_facts *facts, const struct endpoint *end, const struct peer *peer)
{
	bool inbound = facts->direction == INBOUND, selected;
	__u16 port = inbound ? end->local_port : peer->port;

	if (end->protocol == IPPROTO_TCP && facts->selected)
		return facts->selected == SELECTED;
	selected = is_peer_selected(peer, port, inbound);
	if (end->protocol == IPPROTO_TCP)
		facts->selected = selected ? SELECTED : NOT_SELECTED;
	return selected;
}

static __always_inline struct outbound_counters *find_outbound(const struct process_key *process,
							       const struct peer *peer, __u32 protocol)
{
	struct outbound_key key = {
		.process = *process,
		.address_high = peer->address.halves[0],
		.address_low = peer->address.halves[1],
		.port = peer->port,
		.protocol = protocol,
	};

	return outbound_find(&key);
}

static __always_inline struct inbound_counters *find_inbound(const struct process_key *process, __u32 port,
							     __u32 protocol)
{
	struct inbound_key key = { .process = *process, .port = port, .protocol = protocol };

	return inbound_find(&key);
}

/* Count a call for a destination that the selectors include. `local` is the local port plus the protocol times 65536,
 * because a BPF function can have only five arguments. */
SUBPROGRAM int count_peer(enum direction direction, const struct peer *peer, __u32 local, bool received, __u64 bytes)
{
	__u32 port = local & 0xffff, protocol = local >> 16;
	struct outbound_counters *outbound;
	struct inbound_counters *inbound;
	struct process_key process = {};

	if (cfg_rows)
		current_process(&process);
	if (direction == INBOUND) {
		inbound = find_inbound(&process, port, protocol);
		if (inbound && received) {
			count(&inbound->received_calls, 1);
			count(&inbound->received_bytes, bytes);
		} else if (inbound) {
			count(&inbound->sent_calls, 1);
			count(&inbound->sent_bytes, bytes);
		}
	} else {
		outbound = find_outbound(&process, peer, protocol);
		if (outbound && received) {
			count(&outbound->received_calls, 1);
			count(&outbound->received_bytes, bytes);
		} else if (outbound) {
			count(&outbound->sent_calls, 1);
			count(&outbound->sent_bytes, bytes);
		}
	}
	return 0;
}

/* Count a call for a destination. If the socket is not connected, the peer is `datagram`. If that is unknown (port 0),
 * it is the peer that the socket last sent to, because the kernel sends the parts of a corked datagram to the receiver
 * of the first part, and because an unknown sender has most probably answered. */
static __always_inline void count_destination(struct sock *sk, struct endpoint *end, const struct peer *datagram,
					      bool received, __u64 bytes, const bool typed)
{
	struct socket_facts *facts = use_socket(sk, end, received, typed);
	const struct peer *peer = &end->peer;

	if (!facts)
		return;
	if (!peer->port && datagram->port) {
		peer = datagram;
		if (!received)
			facts->last = *datagram;
	} else if (!peer->port) {
		peer = &facts->last;
	} else if (!received && end->protocol == IPPROTO_UDP) {
		facts->last = *peer;	/* connect(2) with AF_UNSPEC makes the socket unconnected again */
	}
	if (is_selected(facts, end, peer))
		count_peer(facts->direction, peer, end->local_port | end->protocol << 16, received, bytes);
}

#endif
