/* SPDX-License-Identifier: GPL-2.0-only */
/* Declarations of the kernel types that ebpfmon reads. Only the fields that are used are declared. libbpf finds their
 * offsets in the running kernel's BTF (preserve_access_index), so one declaration serves all kernels and, except for
 * registers, all architectures. BCC takes the types from the kernel's headers instead: for BCC, the text after
 * `#pragma ebpfmon` becomes a preprocessor directive. */
#ifndef EBPFMON_KERNEL_TYPES_H
#define EBPFMON_KERNEL_TYPES_H

#define CLONE_THREAD 0x00010000
#define AT_REMOVEDIR 0x200	/* unlinkat(2) removes a directory */

#ifdef BCC
#pragma ebpfmon include <uapi/linux/ptrace.h>
#pragma ebpfmon include <linux/sched.h>
#pragma ebpfmon include <linux/sched/task.h>
#pragma ebpfmon include <linux/cred.h>
#pragma ebpfmon include <linux/cgroup-defs.h>
#pragma ebpfmon include <linux/kernfs.h>
#pragma ebpfmon include <linux/mm_types.h>
#pragma ebpfmon include <linux/fs.h>
#else
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#define __VMLINUX_H__	/* makes libbpf's PT_REGS_*() use the kernel's names of registers */

#define TASK_COMM_LEN 16

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
	kuid_t euid;
};

struct qstr {
	unsigned char *name;
};

struct dentry {
	struct qstr d_name;
};

struct path {
	struct dentry *dentry;
};

struct inode {
	unsigned short i_mode;
	unsigned long i_ino;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
};

struct mm_struct {
	unsigned long arg_start, arg_end;
	struct file *exe_file;
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
	struct mm_struct *mm;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	__u64 start_boottime;
	__u64 self_exec_id;
	struct cred *real_cred;
	char comm[TASK_COMM_LEN];
	struct css_set *cgroups;
	struct files_struct *files;
};

struct kernel_clone_args {
	__u64 flags;
};

struct trace_event_raw_task_newtask {
	unsigned long clone_flags;
};

struct trace_event_raw_sys_exit {
	long id;
	long ret;
};

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long bp, bx, r10, r9, r8, ax, cx, dx, si, di, orig_ax;
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

#if defined(__TARGET_ARCH_arm64)
struct user_pt_regs {	/* part of the ABI, so it never changes; libbpf's PT_REGS_*() cast to it */
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
	__u64 pstate;
};
#endif
#endif /* BCC */

/* The number and the arguments of a system call, read from the task's registers when the call exits. These are plain
 * loads, whereas libbpf's PT_REGS_PARM*_CORE_SYSCALL() calls a helper. A call of a 32-bit program has another number,
 * and on x86 its arguments are in other registers: see in_32_bit_call(). */
#if defined(__TARGET_ARCH_x86)
#define SYSCALL_NR(regs) READ_FIELD(regs, orig_ax, true)
#define SYSCALL_ARG1(regs) READ_FIELD(regs, di, true)
#define SYSCALL_ARG2(regs) READ_FIELD(regs, si, true)
#define SYSCALL_ARG3(regs) READ_FIELD(regs, dx, true)
#define SYSCALL_ARG4(regs) READ_FIELD(regs, r10, true)
#define SYSCALL_ARG5(regs) READ_FIELD(regs, r8, true)
#define SYSCALL_ARG6(regs) READ_FIELD(regs, r9, true)
#define SYSCALL_COMPAT_ARG1(regs) ((__u32)READ_FIELD(regs, bx, true))
#define SYSCALL_COMPAT_ARG2(regs) ((__u32)READ_FIELD(regs, cx, true))
#define SYSCALL_COMPAT_ARG3(regs) ((__u32)READ_FIELD(regs, dx, true))
#define SYSCALL_COMPAT_ARG4(regs) ((__u32)READ_FIELD(regs, si, true))
#define SYSCALL_COMPAT_ARG5(regs) ((__u32)READ_FIELD(regs, di, true))
#define SYSCALL_COMPAT_ARG6(regs) ((__u32)READ_FIELD(regs, bp, true))
#define IN_SYSCALL(regs) ((long)READ_FIELD(regs, ax, true) == -38)	/* -ENOSYS, which the result replaces */
#define COMPAT_FLAGS thread_info.status
#define COMPAT_FLAG 0x0002	/* TS_COMPAT */
#else
#define SYSCALL_NR(regs) READ_FIELD(regs, syscallno, true)
#define SYSCALL_ARG1(regs) READ_FIELD(regs, orig_x0, true)
#define SYSCALL_ARG2(regs) READ_FIELD(regs, regs[1], true)
#define SYSCALL_ARG3(regs) READ_FIELD(regs, regs[2], true)
#define SYSCALL_ARG4(regs) READ_FIELD(regs, regs[3], true)
#define SYSCALL_ARG5(regs) READ_FIELD(regs, regs[4], true)
#define SYSCALL_ARG6(regs) READ_FIELD(regs, regs[5], true)
#define SYSCALL_COMPAT_ARG1(regs) ((__u32)SYSCALL_ARG1(regs))
#define SYSCALL_COMPAT_ARG2(regs) ((__u32)SYSCALL_ARG2(regs))
#define SYSCALL_COMPAT_ARG3(regs) ((__u32)SYSCALL_ARG3(regs))
#define SYSCALL_COMPAT_ARG4(regs) ((__u32)SYSCALL_ARG4(regs))
#define SYSCALL_COMPAT_ARG5(regs) ((__u32)SYSCALL_ARG5(regs))
#define SYSCALL_COMPAT_ARG6(regs) ((__u32)SYSCALL_ARG6(regs))
/* The result replaces the first argument. A call that returns its first argument looks as if it had not returned. */
#define IN_SYSCALL(regs) (READ_FIELD(regs, regs[0], true) == READ_FIELD(regs, orig_x0, true))
#define COMPAT_FLAGS thread_info.flags
#define COMPAT_FLAG (1 << 22)	/* TIF_32BIT */
#endif

#endif
