/* SPDX-License-Identifier: GPL-2.0-only */
/* Declarations of the kernel's socket types, made in the same way as in kernel_types.h. */
#ifndef EBPFMON_SOCKET_TYPES_H
#define EBPFMON_SOCKET_TYPES_H

#include "kernel_types.h"

#ifdef BCC
/* These defines keep the headers below from including the kernel's BPF headers, which conflict with BCC's own, older
 * ones. */
#pragma ebpfmon define _LINUX_BPF_H 1
#pragma ebpfmon define __LINUX_FILTER_H__ 1
#pragma ebpfmon include <linux/skbuff.h>
#pragma ebpfmon include <linux/socket.h>
#pragma ebpfmon include <linux/net.h>
#pragma ebpfmon include <net/sock.h>
#pragma ebpfmon include <linux/tcp.h>

/* net/tcp.h declares this, but needs the BPF headers. The first fields have had these offsets since Linux 2.6. */
struct tcp_skb_cb {
	__u32 seq, end_seq;
	__u16 tcp_gso_segs;
};
#else

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define EBADF 9
#define EINVAL 22
#define ESPIPE 29
#define MSG_PEEK 2
#define MSG_ERRQUEUE 0x2000

enum tcp_state {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_SYN_RECV = 3,
	TCP_FIN_WAIT1 = 4,
	TCP_CLOSE = 7,
	TCP_LAST_ACK = 9,
	TCP_LISTEN = 10,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
};

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
	__u16 sk_type;
	__u16 sk_protocol;
	__u8 sk_userlocks;
	unsigned long sk_ino;
};

struct inet_sock {
	__be16 inet_sport;
};

struct tcp_sock {
	bool is_mptcp;
};

struct socket {
	struct file *file;
	struct sock *sk;
};

struct msghdr {
	void *msg_name;
};

struct sk_buff {
	unsigned char *head;
	__u16 transport_header;
	__u16 network_header;
	char cb[48];
};

struct tcp_skb_cb {
	__u16 tcp_gso_segs;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct trace_event_raw_sock_msg_length {
	void *sk;
	int ret;
	int flags;
};

struct trace_event_raw_inet_sock_set_state {
	void *skaddr;
	int oldstate;
	int newstate;
};

struct trace_event_raw_tcp_event_sk {
	void *skaddr;
};

/* The record of the classic tracepoint. Before Linux 6.10, its type has another name, so the program does not load. */
struct trace_event_raw_tcp_retransmit_skb {
	void *skbaddr;
	void *skaddr;
	int err;
};

struct trace_event_raw_tcp_retransmit_synack {
	void *skaddr;
};

#pragma clang attribute pop
#endif /* BCC */

/* The third word of an IPv4-mapped IPv6 address (::ffff:a.b.c.d), in network order on a little-endian machine. */
#define IPV4_IN_IPV6 0xffff0000
#define FILE_TYPE 0xf000	/* the bits of an inode's mode that hold the file type */
#define FILE_IS_SOCKET 0xc000
#define BIND_LOCKS (4 | 8)	/* SOCK_BINDADDR_LOCK | SOCK_BINDPORT_LOCK: bind(2) chose an address or a port */

#endif
