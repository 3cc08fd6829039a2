/* SPDX-License-Identifier: GPL-2.0-only */
/* Counters of what each process does on TCP and UDP sockets, whatever the peer. */
#ifndef EBPFMON_PROCESSES_H
#define EBPFMON_PROCESSES_H

#include "sockets.h"

/* Processes that can be active in one interval before the table overflows. Two buffers of 16,384 rows are 8.4 MB. The
 * setting table_size overrides it. */
#define PROCESSES 16384

struct network_counters {
	__u64 tcp_send_calls, tcp_send_errors, tcp_send_bytes;
	__u64 tcp_recv_calls, tcp_recv_errors, tcp_recv_bytes;
	__u64 tcp_close_calls, tcp_retransmits;
	__u64 tcp_accepted, tcp_connects_v4, tcp_connects_v6, tcp_connects_failed;
	__u64 udp_send_calls, udp_send_errors, udp_send_bytes;
	__u64 udp_recv_calls, udp_recv_errors, udp_recv_bytes;
};
#define TABLE network
#define TABLE_SIZE PROCESSES
#include "process_table.bpf.h"

/* Return the counters of a socket's owner, for events that can happen in any task. A socket without an owner belongs to
 * the kernel (tgid 0). */
static __always_inline struct network_counters *find_owner_counters(const struct socket_facts *facts)
{
	struct caller owner = {};

	if (facts)
		owner = facts->owner;
	return network_find_for(&owner);
}

/* Count a call of the current process that sends or receives, successful or not. `consumed` is false if it
 * only looked at the data (MSG_PEEK). */
static __always_inline void count_call(const struct endpoint *end, bool received, bool consumed, long result)
{
	struct network_counters *counters = network_find_cached();
	__u64 bytes = consumed && result > 0 ? result : 0;
	bool failed = cfg_return && result < 0;

	if (!counters)
		return;
	if (end->protocol == IPPROTO_TCP && received) {
		count(&counters->tcp_recv_calls, 1);
		count(&counters->tcp_recv_bytes, bytes);
		if (failed)
			count(&counters->tcp_recv_errors, 1);
	} else if (end->protocol == IPPROTO_TCP) {
		count(&counters->tcp_send_calls, 1);
		count(&counters->tcp_send_bytes, bytes);
		if (failed)
			count(&counters->tcp_send_errors, 1);
	} else if (received) {
		count(&counters->udp_recv_calls, 1);
		count(&counters->udp_recv_bytes, bytes);
		if (failed)
			count(&counters->udp_recv_errors, 1);
	} else {
		count(&counters->udp_send_calls, 1);
		count(&counters->udp_send_bytes, bytes);
		if (failed)
			count(&counters->udp_send_errors, 1);
	}
}

#endif
