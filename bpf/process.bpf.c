// SPDX-License-Identifier: GPL-2.0-only
/* Where it is seen what processes do: open, close, read, write, delete; create tasks, exit. */
#include "process.bpf.h"
#include "syscalls.bpf.h"

/* Trampolines and kprobes see the kernel's functions ... */

FEXIT(file_open, do_sys_openat2, 3, on_open)
FEXIT(file_open, do_sys_open, 4, on_open)
KPROBE_OR_KRETPROBE(file_open, do_sys_openat2, on_open)
KPROBE_OR_KRETPROBE(file_open, do_sys_open, on_open)

/* close(2) is one function with three names. Where close_fd() and file_close_fd() both are, close(2) calls the
 * latter (since 6.8). */
FEXIT(file_close, file_close_fd, 1, on_close_file)
FEXIT(file_close, close_fd, 1, on_close)
FEXIT(file_close, __close_fd, 2, on_close)
KPROBE_OR_KRETPROBE(file_close, file_close_fd, on_close_file)
KPROBE_OR_KRETPROBE(file_close, close_fd, on_close)
KPROBE_OR_KRETPROBE(file_close, __close_fd, on_close)

FEXIT(file_close_range, __x64_sys_close_range, 1, on_close)
FEXIT(file_close_range, __arm64_sys_close_range, 1, on_close)
KPROBE_OR_KRETPROBE(file_close_range, __x64_sys_close_range, on_close)
KPROBE_OR_KRETPROBE(file_close_range, __arm64_sys_close_range, on_close)

FEXIT(vfs_read, vfs_read, 4, on_read)
KRETPROBE(vfs_read, vfs_read, on_read)
FEXIT(vfs_readv, vfs_readv, 5, on_read)
KRETPROBE(vfs_readv, vfs_readv, on_read)
FEXIT(vfs_write, vfs_write, 4, on_write)
KRETPROBE(vfs_write, vfs_write, on_write)
FEXIT(vfs_writev, vfs_writev, 5, on_write)
KRETPROBE(vfs_writev, vfs_writev, on_write)

/* Not vfs_unlink(): it is called only when the name was found, and again by stacked filesystems. */
FEXIT(vfs_unlink, do_unlinkat, 2, on_unlink)
FEXIT(vfs_unlink, filename_unlinkat, 2, on_unlink)
KPROBE_OR_KRETPROBE(vfs_unlink, do_unlinkat, on_unlink)
KPROBE_OR_KRETPROBE(vfs_unlink, filename_unlinkat, on_unlink)

/* ... tracepoints see the system calls ... */

/* At the raw tracepoint, or at the classic one where programs at the raw one can be preempted. */
#define SEEN_AT_EXIT(event)                                                          \
	SEEN_AT(sys_exit, event);                                                    \
	SEEN_AT(raw_syscalls_sys_exit, event)
SEEN_AT_EXIT(file_open);
SEEN_AT_EXIT(file_close);
SEEN_AT_EXIT(file_close_range);
SEEN_AT_EXIT(vfs_read);
SEEN_AT_EXIT(vfs_readv);
SEEN_AT_EXIT(vfs_write);
SEEN_AT_EXIT(vfs_writev);
SEEN_AT_EXIT(vfs_unlink);
SEEN_AT_IN_RETURN_MODE(sys_exit, task_fail);
SEEN_AT_IN_RETURN_MODE(raw_syscalls_sys_exit, task_fail);
#define SEEN(event) (classic ? event##__tracepoint__raw_syscalls_sys_exit : event##__tracepoint__sys_exit)

/* clone(2) and clone3(2) failed: of a thread, or of a process? clone3's flags are in the caller's memory. */
static __always_inline __u64 flags_of_clone(struct pt_regs *regs, enum syscall_kind kind)
{
	__u64 first = in_32_bit_call() ? (__u32)REGISTER(regs, SYSCALL_COMPAT_ARG1) : REGISTER(regs, SYSCALL_ARG1);
	__u64 flags = 0;

	if (kind == CALL_CLONE)
		return first;
	if (kind == CALL_CLONE3)
		bpf_probe_read_user(&flags, sizeof(flags), (void *)first);
	return flags;
}

static __always_inline int on_syscall(struct pt_regs *regs, __u32 nr, long result, const bool classic)
{
	enum syscall_kind kind = kind_of_syscall(nr);

	switch (kind) {
	case CALL_OPEN:
		return SEEN(file_open) ? on_open(result) : 0;
	case CALL_CLOSE:
		return SEEN(file_close) ? on_close(result) : 0;
	case CALL_CLOSE_RANGE:
		return SEEN(file_close_range) ? on_close(result) : 0;
	case CALL_READ:
		return SEEN(vfs_read) ? on_read(result) : 0;
	case CALL_READV:
		return SEEN(vfs_readv) ? on_read(result) : 0;
	case CALL_WRITE:
		return SEEN(vfs_write) ? on_write(result) : 0;
	case CALL_WRITEV:
		return SEEN(vfs_writev) ? on_write(result) : 0;
	case CALL_UNLINKAT:
		if (REGISTER(regs, SYSCALL_ARG3) & AT_REMOVEDIR)
			return 0;
		/* fall through */
	case CALL_UNLINK:
		return SEEN(vfs_unlink) ? on_unlink(result) : 0;
	case CALL_FORK:
	case CALL_CLONE:
	case CALL_CLONE3:
		if (!(classic ? task_fail__tracepoint__raw_syscalls_sys_exit__return :
				task_fail__tracepoint__sys_exit__return) || result >= 0)
			return 0;
		return on_task_fail(flags_of_clone(regs, kind));
	default:
		return 0;
	}
}

/* TP_PROTO(struct pt_regs *regs, long ret) */
static __always_inline int on_sys_exit(__u64 *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];

	return on_syscall(regs, REGISTER(regs, SYSCALL_NR), ctx[1], false);
}
SHARED_TRACEPOINT(sys_exit, on_sys_exit)

#ifndef BCC
static __always_inline int on_classic_sys_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());

	return on_syscall(regs, ctx->id, ctx->ret, true);
}
SHARED_CLASSIC_TRACEPOINT(raw_syscalls, sys_exit, on_classic_sys_exit)
#endif

/* ... and tasks come and go at tracepoints, which cost less than a trampoline. */

/* TP_PROTO(struct task_struct *task, unsigned long clone_flags); unlike sched_process_fork, which only
 * kernel_clone() reaches, also for the tasks that the kernel makes within a program */
static __always_inline int on_task_newtask(__u64 *ctx)
{
	return on_task_create(ctx[1] & CLONE_THREAD);
}
TRACEPOINT(task_create, task_newtask, on_task_newtask)

#ifndef BCC
static __always_inline int on_classic_task_newtask(struct trace_event_raw_task_newtask *ctx)
{
	return on_task_create(ctx->clone_flags & CLONE_THREAD);
}
CLASSIC_TRACEPOINT(task_create, task, task_newtask, on_classic_task_newtask)
#endif

static __always_inline int on_wake_up_new_task(void *task, const bool typed)
{
	__s32 pid = 0, tgid = 0;

	LOAD(typed, pid, task, struct task_struct, pid);
	LOAD(typed, tgid, task, struct task_struct, tgid);
	return on_task_create(pid != tgid);
}
FENTRY(task_create, wake_up_new_task, on_wake_up_new_task)
KPROBE(task_create, wake_up_new_task, on_wake_up_new_task)

static __always_inline int on_sched_process_exit(void *ctx)
{
	return on_task_exit();
}
TRACEPOINT(task_exit, sched_process_exit, on_sched_process_exit)
CLASSIC_TRACEPOINT(task_exit, sched, sched_process_exit, on_sched_process_exit)

static __always_inline int on_do_exit(void *code, const bool typed)
{
	return on_task_exit();
}
FENTRY(task_exit, do_exit, on_do_exit)
KPROBE(task_exit, do_exit, on_do_exit)

/* TP_PROTO(struct task_struct *p): an RCU grace period after release_task(). When a thread is freed its leader may be
 * gone already, and another task be in that memory: so a thread's process is what it was when the thread exited. */
static __always_inline int on_sched_process_free(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	__u64 address = (__u64)task;
	struct process_key key = {}, *at_exit;
	__u32 pid = 0;

	LOAD(true, pid, task, struct task_struct, pid);
	LOAD(true, key.tgid, task, struct task_struct, tgid);
	LOAD(true, key.start_ns, task, struct task_struct, start_boottime);
	LOAD(true, key.exec_id, task, struct task_struct, self_exec_id);
	if (pid == key.tgid)
		return on_release(&key, task, true);
	at_exit = bpf_map_lookup_elem(MAP(process_exiting), &address);
	if (at_exit && at_exit->tgid == key.tgid)
		key = *at_exit;
	bpf_map_delete_elem(MAP(process_exiting), &address);
	return on_release(&key, task, true);
}
TRACEPOINT(task_release, sched_process_free, on_sched_process_free)

/* Called for each task by release_task(), which may release a thread and then its leader. */
static __always_inline int on_cgroup_release(void *task, const bool typed)
{
	struct process_key key = {};
	void *leader = 0;

	LOAD(typed, leader, task, struct task_struct, group_leader);
	LOAD(typed, key.start_ns, leader, struct task_struct, start_boottime);
	LOAD(typed, key.tgid, task, struct task_struct, tgid);
	LOAD(typed, key.exec_id, task, struct task_struct, self_exec_id);
	return on_release(&key, task, typed);
}
FENTRY(task_release, cgroup_task_release, on_cgroup_release)
FENTRY(task_release, cgroup_release, on_cgroup_release)
KPROBE(task_release, cgroup_task_release, on_cgroup_release)
KPROBE(task_release, cgroup_release, on_cgroup_release)

/* Failed clones by the function: kernel_clone() has its flags in an argument block. */
static __always_inline int on_kernel_clone(void *args, const bool typed, int result)
{
	__u64 flags = 0;

	if (result >= 0)
		return 0;
	LOAD(typed, flags, args, struct kernel_clone_args, flags);
	return on_task_fail(flags);
}

#ifndef BCC
SEC("fexit/kernel_clone")
int task_fail__trampoline__kernel_clone__return(__u64 *ctx)
{
	return on_kernel_clone((void *)ctx[0], true, ctx[1]);
}

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FORKING);
	__type(key, __u64);
	__type(value, __u64);
} process_forking SEC(".maps");
#endif

SEC("kprobe/kernel_clone")
int task_fail__kprobe__kernel_clone__return__args(struct pt_regs *ctx)
{
	__u64 id = bpf_get_current_pid_tgid(), args = (__u64)KPROBE_ARG1(ctx);

	bpf_map_update_elem(MAP(process_forking), &id, &args, BPF_ANY);
	return 0;
}

SEC("kretprobe/kernel_clone")
int task_fail__kprobe__kernel_clone__return(struct pt_regs *ctx)
{
	__u64 id = bpf_get_current_pid_tgid(), *args = bpf_map_lookup_elem(MAP(process_forking), &id);

	if (args)
		on_kernel_clone((void *)*args, false, KPROBE_RESULT(ctx));
	bpf_map_delete_elem(MAP(process_forking), &id);
	return 0;
}

LICENSE("GPL");
