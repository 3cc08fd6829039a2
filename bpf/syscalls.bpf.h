/* SPDX-License-Identifier: GPL-2.0-only */
/* kind_of_syscall() classifies a system call by its number, for programs at sys_exit. The numbers are those of each
 * architecture's ABI, for 64-bit programs and for 32-bit programs on the same kernel. */
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

#define NUMBERS 512
#define NO(call) (NUMBERS + (call)) /* a placeholder: the architecture has no such call, and no call has this number */
/*	kind			call		x86-64	ia32	arm64	arm */
#define SYSCALLS(CALL)                                                       \
	CALL(CALL_OPEN,		open,		2,	5,	NO(0),	5)   \
	CALL(CALL_OPEN,		creat,		85,	8,	NO(1),	8)   \
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
	CALL(CALL_UNLINK,	unlink,		87,	10,	NO(2),	10)  \
	CALL(CALL_UNLINKAT,	unlinkat,	263,	301,	35,	328) \
	CALL(CALL_FORK,		fork,		57,	2,	NO(3),	2)   \
	CALL(CALL_FORK,		vfork,		58,	190,	NO(4),	190) \
	CALL(CALL_CLONE,	clone,		56,	120,	220,	120) \
	CALL(CALL_CLONE3,	clone3,		435,	435,	435,	435)

static __always_inline bool has_compat_flag(struct task_struct *task, const bool typed)
{
	return READ_FIELD(task, COMPAT_FLAGS, typed) & COMPAT_FLAG;
}

static __always_inline bool in_32_bit_call(void)
{
	return CURRENT_IS_TYPED ? has_compat_flag(this_task(), true) : has_compat_flag(this_task(), false);
}

/* Most calls are of no kind in this table, and one load is enough to find that out. BCC has no tables of constants. */
#ifndef BCC
static const struct {
	__u8 native, compat; /* enum syscall_kind */
} syscall_kinds[NUMBERS + 5] SEC(".rodata.kinds") = {
#if defined(__TARGET_ARCH_x86)
#define KIND_(kind, name, x86_64, ia32, arm64, arm) [x86_64].native = kind, [ia32].compat = kind,
#else
#define KIND_(kind, name, x86_64, ia32, arm64, arm) [arm64].native = kind, [arm].compat = kind,
#endif
	SYSCALLS(KIND_)
};
#endif

static __always_inline enum syscall_kind kind_of_syscall(__u32 nr)
{
#ifdef BCC
#if defined(__TARGET_ARCH_x86)
#define IF_(kind, name, x86_64, ia32, arm64, arm) if (nr == (compat ? ia32 : x86_64)) return kind;
#else
#define IF_(kind, name, x86_64, ia32, arm64, arm) if (nr == (compat ? arm : arm64)) return kind;
#endif
	bool compat = in_32_bit_call();

	if (nr < NUMBERS) {
		SYSCALLS(IF_)
	}
	return CALL_OTHER;
#else
	__u64 index = nr;

	/* Makes the compiler compare and index with the same register, so that the verifier knows its bound. */
	asm volatile("" : "+r"(index));
	if (index >= NUMBERS || !(syscall_kinds[index].native | syscall_kinds[index].compat))
		return CALL_OTHER;
	return in_32_bit_call() ? syscall_kinds[index].compat : syscall_kinds[index].native;
#endif
}

#endif
