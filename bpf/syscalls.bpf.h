/* SPDX-License-Identifier: GPL-2.0-only */
/* System calls, for programs at sys_exit. in_32_bit_call() tells whether the current call is that of a 32-bit program,
 * which has other numbers.
 *
 * kind_of_syscall() classifies a call by its number. A probe that uses it defines two things before it includes this
 * header: `enum syscall_kind`, in which CALL_OTHER comes first, and a list of calls:
 *
 *	#define SYSCALLS(CALL)	\
 *		CALL(kind, name, number on x86-64, ia32, arm64, arm)	\
 *		...
 *
 * The number of a call that an architecture does not have is NO_CALL(n), with a different n each time. */
#ifndef EBPFMON_SYSCALLS_BPF_H
#define EBPFMON_SYSCALLS_BPF_H

#include "ebpfmon.bpf.h"

static __always_inline bool has_compat_flag(struct task_struct *task, const bool typed)
{
	return READ_FIELD(task, COMPAT_FLAGS, typed) & COMPAT_FLAG;
}

static __always_inline bool in_32_bit_call(void)
{
	return CURRENT_IS_TYPED ? has_compat_flag(this_task(), true) : has_compat_flag(this_task(), false);
}

/* Whether an event is counted by the program that runs: the one at the classic tracepoint if `classic`, else the one at
 * the raw tracepoint. For each event, the probe declares the rodata settings raw_counts_EVENT and classic_counts_EVENT. */
#define COUNTS(event) (classic ? classic_counts_##event : raw_counts_##event)

#ifdef SYSCALLS
#define NUMBERS_ 512
#define NO_CALLS_ 16
#define NO_CALL(n) (NUMBERS_ + (n))

/* Most calls are of no kind in this table, and one load is enough to find that out. BCC has no tables of constants. */
#ifndef BCC
static const struct {
	__u8 native, compat; /* enum syscall_kind */
} syscall_kinds[NUMBERS_ + NO_CALLS_] SEC(".rodata.kinds") = {
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

	if (nr < NUMBERS_) {
		SYSCALLS(IF_)
	}
	return CALL_OTHER;
#else
	__u64 index = nr;

	/* This makes the compiler compare and index with the same register, so that the verifier knows its bound. */
	asm volatile("" : "+r"(index));
	if (index >= NUMBERS_ || !(syscall_kinds[index].native | syscall_kinds[index].compat))
		return CALL_OTHER;
	return in_32_bit_call() ? syscall_kinds[index].compat : syscall_kinds[index].native;
#endif
}
#endif /* SYSCALLS */

#endif
