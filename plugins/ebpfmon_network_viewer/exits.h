/* SPDX-License-Identifier: GPL-2.0-only */
/* What is counted when a system call returns, on kernels where neither trampolines nor kprobes work. */
#ifndef EBPFMON_EXITS_H
#define EBPFMON_EXITS_H

#include "connections.h"

#ifndef BCC
static __always_inline int on_syscall(struct pt_regs *regs, __u32 nr, long result, const bool classic)
{
	enum syscall_kind kind = kind_of_syscall(nr);

	if (kind == CALL_SOCKETCALL)
		kind = kind_of_socketcall(SYSCALL_COMPAT_ARG1(regs));
	switch (kind) {
	case CALL_SENDMMSG:
	case CALL_RECVFROM:
	case CALL_RECVMSG:
	case CALL_RECVMMSG:
		return COUNTS(datagram) ? on_messages_exit(kind, result) : 0;
	case CALL_SPLICE:
		return COUNTS(splice) ? on_splice_exit(regs, result) : 0;
	case CALL_ACCEPT:
		return COUNTS(accept) && result >= 0 ? on_accept(socket_of(result), false) : 0;
	default:
		return 0;
	}
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit_tp_btf, struct pt_regs *regs, long result)
{
	return on_syscall(regs, SYSCALL_NR(regs), result, false);
}

SEC("tp/raw_syscalls/sys_exit")
int sys_exit_tp(struct trace_event_raw_sys_exit *ctx)
{
	return on_syscall((void *)bpf_task_pt_regs(bpf_get_current_task_btf()), ctx->id, ctx->ret, true);
}
#endif

#endif
