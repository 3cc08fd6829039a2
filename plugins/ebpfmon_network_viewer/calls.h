/* SPDX-License-Identifier: GPL-2.0-only */
/* The system calls on sockets. Programs at tracepoints read from the current call what programs at functions get as
 * arguments. BCC cannot do that. */
#ifndef EBPFMON_CALLS_H
#define EBPFMON_CALLS_H

#include "sockets.h"

#ifndef BCC

enum syscall_kind {
	CALL_OTHER,
	CALL_SENDTO,
	CALL_SENDMSG,
	CALL_SENDMMSG,
	CALL_RECVFROM,
	CALL_RECVMSG,
	CALL_RECVMMSG,
	CALL_SPLICE,
	CALL_ACCEPT,
	CALL_SOCKETCALL,	/* one of the others, chosen by its first argument */
};

/*	kind			name			x86-64		ia32		arm64		arm */
#define SYSCALLS(CALL)												\
	CALL(CALL_SENDTO,	sendto,			44,		369,		206,		290)	\
	CALL(CALL_SENDMSG,	sendmsg,		46,		370,		211,		296)	\
	CALL(CALL_SENDMMSG,	sendmmsg,		307,		345,		269,		374)	\
	CALL(CALL_RECVFROM,	recvfrom,		45,		371,		207,		292)	\
	CALL(CALL_RECVMSG,	recvmsg,		47,		372,		212,		297)	\
	CALL(CALL_RECVMMSG,	recvmmsg,		299,		337,		243,		365)	\
	CALL(CALL_RECVMMSG,	recvmmsg_time64,	NO_CALL(0),	417,		NO_CALL(0),	417)	\
	CALL(CALL_SPLICE,	splice,			275,		313,		76,		340)	\
	CALL(CALL_ACCEPT,	accept,			43,		NO_CALL(1),	202,		285)	\
	CALL(CALL_ACCEPT,	accept4,		288,		364,		242,		366)	\
	CALL(CALL_SOCKETCALL,	socketcall,		NO_CALL(2),	102,		NO_CALL(1),	NO_CALL(0))
#include "syscalls.bpf.h"

/* Which events the two programs at sys_exit count: the one at the raw tracepoint, and the one at the classic
 * tracepoint, which is for kernels that can preempt programs at raw tracepoints. */
const volatile __u8 raw_counts_splice = 0;
const volatile __u8 raw_counts_accept = 0;
const volatile __u8 raw_counts_datagram = 0;
const volatile __u8 classic_counts_splice = 0;
const volatile __u8 classic_counts_accept = 0;
const volatile __u8 classic_counts_datagram = 0;

/* The call that the current task is in, as far as it tells the peers of datagrams. */
struct socket_call {
	__u64 message;		/* the address of its struct msghdr, or of the first struct mmsghdr */
	__u64 name;		/* the address of the peer's name, of the message if there are messages */
	__u32 name_length;	/* the size of that name, or of the buffer for it */
	__u8 kind;		/* enum syscall_kind */
	__u8 compat;		/* made by a 32-bit program, so its structures are smaller */
};

static __always_inline enum syscall_kind kind_of_socketcall(__u32 call)
{
	switch (call) { /* from linux/net.h */
	case 5:		/* SYS_ACCEPT */
	case 18:	/* SYS_ACCEPT4 */
		return CALL_ACCEPT;
	case 11:	/* SYS_SENDTO */
		return CALL_SENDTO;
	case 12:	/* SYS_RECVFROM */
		return CALL_RECVFROM;
	case 16:	/* SYS_SENDMSG */
		return CALL_SENDMSG;
	case 17:	/* SYS_RECVMSG */
		return CALL_RECVMSG;
	case 19:	/* SYS_RECVMMSG */
		return CALL_RECVMMSG;
	case 20:	/* SYS_SENDMMSG */
		return CALL_SENDMMSG;
	default:
		return CALL_OTHER;
	}
}

/* Read the call that the current task is in. Its kind is CALL_OTHER if the task is in none, because io_uring completes
 * requests after a call, and in threads that have a copy of another thread's registers. */
static __always_inline void read_call(struct socket_call *call)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	__u64 length = 0;
	__u32 args[6] = {};

	if (!IN_SYSCALL(regs))
		return;
	call->kind = kind_of_syscall(SYSCALL_NR(regs));
	call->compat = in_32_bit_call();
	if (!call->compat) {
		call->message = SYSCALL_ARG2(regs);
		call->name = SYSCALL_ARG5(regs);
		length = SYSCALL_ARG6(regs);
	} else if (call->kind == CALL_SOCKETCALL) {
		/* The calls with messages have three arguments, and the page after them may not be mapped. */
		if (bpf_probe_read_user(args, sizeof(args), (void *)(__u64)SYSCALL_COMPAT_ARG2(regs)))
			bpf_probe_read_user(args, 12, (void *)(__u64)SYSCALL_COMPAT_ARG2(regs));
		call->kind = kind_of_socketcall(SYSCALL_COMPAT_ARG1(regs));
		call->message = args[1];
		call->name = args[4];
		length = args[5];
	} else {
		call->message = SYSCALL_COMPAT_ARG2(regs);
		call->name = SYSCALL_COMPAT_ARG5(regs);
		length = SYSCALL_COMPAT_ARG6(regs);
	}
	if (call->kind == CALL_RECVFROM)
		bpf_probe_read_user(&call->name_length, sizeof(call->name_length), (void *)length);
	else
		call->name_length = length;
}

/* Read where the name of a message is. */
static __always_inline void read_message(struct socket_call *call, __u32 index)
{
	/* The layouts are part of the ABI: the name's address and length come first in a struct msghdr. A struct mmsghdr
	 * has 64 bytes, or 32 in a 32-bit program. */
	struct {
		__u64 address;
		__u64 length;
	} head = {};
	__u32 compat[2] = {};

	if (call->compat) {
		bpf_probe_read_user(compat, sizeof(compat), (void *)(call->message + (__u64)index * 32));
		call->name = compat[0];
		call->name_length = compat[1];
	} else {
		bpf_probe_read_user(&head, sizeof(head), (void *)(call->message + (__u64)index * 64));
		call->name = head.address;
		call->name_length = head.length;
	}
}

/* Return the socket behind a descriptor of the current process, or 0. */
static __always_inline struct sock *socket_of(__u32 fd)
{
	struct task_struct *task = this_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file *file = 0;
	struct socket *socket;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), (void *)BPF_CORE_READ(table, fd) + sizeof(file) * (__u64)fd);
	if ((BPF_CORE_READ(file, f_inode, i_mode) & FILE_TYPE) != FILE_IS_SOCKET)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

#endif /* BCC */
#endif
