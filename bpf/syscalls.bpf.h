/* SPDX-License-Identifier: GPL-2.0-only */
/* System calls by what they are to ebpfmon, for programs at sys_exit: native_syscall() and compat_syscall().
 * The numbers are each architecture's ABI: 64-bit, and that of 32-bit programs on the same kernel. */
#ifndef EBPFMON_SYSCALLS_BPF_H
#define EBPFMON_SYSCALLS_BPF_H

#include "ebpfmon.bpf.h"

enum syscall_kind {
	CALL_OTHER,
	CALL_OPEN,
	CALL_CLOSE,
	CALL_CLOSE_RANGE,
	CALL_READ,
	CALL_READV,
	CALL_WRITE,
	CALL_WRITEV,
	CALL_UNLINK,
	CALL_UNLINKAT,
	CALL_FORK,
	CALL_CLONE,
	CALL_CLONE3,
};

#define NONE 0xffffffff
/*	kind			call		x86-64	ia32	arm64	arm */
#define SYSCALLS(CALL)                                                       \
	CALL(CALL_OPEN,		open,		2,	5,	NONE,	5)   \
	CALL(CALL_OPEN,		creat,		85,	8,	NONE,	8)   \
	CALL(CALL_OPEN,		openat,		257,	295,	56,	322) \
	CALL(CALL_OPEN,		openat2,	437,	437,	437,	437) \
	CALL(CALL_CLOSE,	close,		3,	6,	57,	6)   \
	CALL(CALL_CLOSE_RANGE,	close_range,	436,	436,	436,	436) \
	CALL(CALL_READ,		read,		0,	3,	63,	3)   \
	CALL(CALL_READ,		pread64,	17,	180,	67,	180) \
	CALL(CALL_READV,	readv,		19,	145,	65,	145) \
	CALL(CALL_READV,	preadv,		295,	333,	69,	361) \
	CALL(CALL_READV,	preadv2,	327,	378,	286,	392) \
	CALL(CALL_WRITE,	write,		1,	4,	64,	4)   \
	CALL(CALL_WRITE,	pwrite64,	18,	181,	68,	181) \
	CALL(CALL_WRITEV,	writev,		20,	146,	66,	146) \
	CALL(CALL_WRITEV,	pwritev,	296,	334,	70,	362) \
	CALL(CALL_WRITEV,	pwritev2,	328,	379,	287,	393) \
	CALL(CALL_UNLINK,	unlink,		87,	10,	NONE,	10)  \
	CALL(CALL_UNLINKAT,	unlinkat,	263,	301,	35,	328) \
	CALL(CALL_FORK,		fork,		57,	2,	NONE,	2)   \
	CALL(CALL_FORK,		vfork,		58,	190,	NONE,	190) \
	CALL(CALL_CLONE,	clone,		56,	120,	220,	120) \
	CALL(CALL_CLONE3,	clone3,		435,	435,	435,	435)

#if defined(__TARGET_ARCH_x86)
#define NATIVE_CASE_(kind, name, x86_64, ia32, arm64, arm) if (nr == x86_64) return kind;
#define COMPAT_CASE_(kind, name, x86_64, ia32, arm64, arm) if (nr == ia32) return kind;
#else
#define NATIVE_CASE_(kind, name, x86_64, ia32, arm64, arm) if (nr == arm64) return kind;
#define COMPAT_CASE_(kind, name, x86_64, ia32, arm64, arm) if (nr == arm) return kind;
#endif

static __always_inline enum syscall_kind native_syscall(__u32 nr)
{
	SYSCALLS(NATIVE_CASE_)
	return CALL_OTHER;
}

static __always_inline enum syscall_kind compat_syscall(__u32 nr)
{
	SYSCALLS(COMPAT_CASE_)
	return CALL_OTHER;
}

static __always_inline bool in_32_bit_call(void)
{
	unsigned long flags = 0;

#if defined(__TARGET_ARCH_x86)
	LOAD(CURRENT_IS_TYPED, *(__u32 *)&flags, CURRENT_TASK(), struct task_struct, COMPAT_FLAGS);
#else
	LOAD(CURRENT_IS_TYPED, flags, CURRENT_TASK(), struct task_struct, COMPAT_FLAGS);
#endif
	return flags & COMPAT_FLAG;
}

#endif
