/* SPDX-License-Identifier: GPL-2.0-only */
/* The kernel's types, as far as ebpfmon reads them. Only the fields that are used stand here; where they
 * lie is settled at load time from the running kernel's BTF (preserve_access_index), so one list serves
 * every kernel, and every architecture but for the registers. */
#ifndef EBPFMON_KERNEL_TYPES_H
#define EBPFMON_KERNEL_TYPES_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#define TASK_COMM_LEN 16
#define AT_REMOVEDIR 0x200	/* unlinkat(2) that is an rmdir(2) */
#define CLONE_THREAD 0x00010000

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t uid;
};

struct thread_info {
#if defined(__TARGET_ARCH_x86)
	__u32 status;
#else
	unsigned long flags;
#endif
};

struct task_struct {
	struct thread_info thread_info;
	__s32 pid;
	__s32 tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	__u64 start_boottime;
	__u64 self_exec_id;
	const struct cred *cred;
	char comm[TASK_COMM_LEN];
	struct css_set *cgroups;
};

struct kernel_clone_args {
	__u64 flags;
};

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long bx, di, si, dx, ax, orig_ax;
};
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	__u64 regs[31];
	__u64 orig_x0;
	__s32 syscallno;
};
#else
#error "define __TARGET_ARCH_x86 or __TARGET_ARCH_arm64"
#endif

#pragma clang attribute pop

/* Where a function's first argument and its result are at a kprobe and a kretprobe; and, at the exit of a
 * system call, its number and the arguments it was made with. A 32-bit program's call is numbered otherwise:
 * see syscall_is_compat() in the kit. */
#if defined(__TARGET_ARCH_x86)
#define KPROBE_ARG1(ctx) ((ctx)->di)
#define KPROBE_RESULT(ctx) ((ctx)->ax)
#define SYSCALL_NR(regs) ((__u32)(regs)->orig_ax)
#define SYSCALL_ARG1(regs) ((regs)->di)
#define SYSCALL_ARG3(regs) ((regs)->dx)
#define SYSCALL_COMPAT_ARG1(regs) ((__u32)(regs)->bx)
#define TS_COMPAT 0x0002
#define TASK_IN_COMPAT_SYSCALL(task) ((task)->thread_info.status & TS_COMPAT)
#else
#define KPROBE_ARG1(ctx) ((ctx)->regs[0])
#define KPROBE_RESULT(ctx) ((ctx)->regs[0])
#define SYSCALL_NR(regs) ((__u32)(regs)->syscallno)
#define SYSCALL_ARG1(regs) ((regs)->orig_x0)
#define SYSCALL_ARG3(regs) ((regs)->regs[2])
#define SYSCALL_COMPAT_ARG1(regs) ((__u32)(regs)->orig_x0)
#define TIF_32BIT (1 << 22)
#define TASK_IN_COMPAT_SYSCALL(task) ((task)->thread_info.flags & TIF_32BIT)
#endif

#endif
