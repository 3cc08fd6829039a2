// SPDX-License-Identifier: GPL-2.0-only
/* What processes do with files and with each other: open, close, read, write, delete; create tasks, exit. */
#include "ebpfmon.bpf.h"
#include "syscalls.bpf.h"

/* 16,384 processes may act in one interval before any lands in the overflow; two sides of 16,384 rows of 248
 * bytes, key and hash element included, are 8.1 MB of kernel memory. The setting table_size changes it. */
#define PROCESSES 16384
/* Forks that are under way at once, where kprobes see them: a kretprobe has no arguments. */
#define FORKING 1024

struct process_counters {
	__u64 open_calls, open_errors;
	__u64 close_calls, close_errors;
	__u64 read_calls, read_errors, read_bytes;
	__u64 write_calls, write_errors, write_bytes;
	__u64 unlink_calls, unlink_errors;
	__u64 processes_created, processes_failed;
	__u64 threads_created, threads_failed;
	__u64 tasks_exited, tasks_released;
};

PROCESS_TABLE(process, PROCESSES);

static __always_inline int on_open(int result)
{
	struct process_slots to;

	if (!process_slots(&to))
		return 0;
	ADD(&to, open_calls, 1);
	if (cfg_return && result < 0)
		ADD(&to, open_errors, 1);
	return 0;
}

static __always_inline int on_close(int result)
{
	struct process_slots to;

	if (!process_slots(&to))
		return 0;
	ADD(&to, close_calls, 1);
	if (cfg_return && result < 0)
		ADD(&to, close_errors, 1);
	return 0;
}

/* file_close_fd() returns the file that the descriptor was, or none. */
static __always_inline int on_close_file(__u64 file)
{
	return on_close(file ? 0 : -1);
}

static __always_inline int on_read(long result)
{
	struct process_slots to;

	if (!process_slots(&to))
		return 0;
	ADD(&to, read_calls, 1);
	if (result > 0)
		ADD(&to, read_bytes, result);
	else if (cfg_return && result < 0)
		ADD(&to, read_errors, 1);
	return 0;
}

static __always_inline int on_write(long result)
{
	struct process_slots to;

	if (!process_slots(&to))
		return 0;
	ADD(&to, write_calls, 1);
	if (result > 0)
		ADD(&to, write_bytes, result);
	else if (cfg_return && result < 0)
		ADD(&to, write_errors, 1);
	return 0;
}

static __always_inline int on_unlink(int result)
{
	struct process_slots to;

	if (!process_slots(&to))
		return 0;
	ADD(&to, unlink_calls, 1);
	if (cfg_return && result < 0)
		ADD(&to, unlink_errors, 1);
	return 0;
}

/* A new task is charged to who made it, the current task. A task with a tgid of its own is a process, any
 * other a thread: of a program, or of the kernel in a program's name (io_uring's and vhost's workers). */
static __always_inline int on_task_create(void *task)
{
	struct process_slots to;
	__s32 pid = 0, tgid = 0;

	if (!process_slots(&to))
		return 0;
	READ(pid, task, struct task_struct, pid);
	READ(tgid, task, struct task_struct, tgid);
	if (pid == tgid)
		ADD(&to, processes_created, 1);
	else
		ADD(&to, threads_created, 1);
	return 0;
}

static __always_inline int on_task_fail(__u64 clone_flags)
{
	struct process_slots to;

	if (!process_slots(&to))
		return 0;
	if (clone_flags & CLONE_THREAD)
		ADD(&to, threads_failed, 1);
	else
		ADD(&to, processes_failed, 1);
	return 0;
}

static __always_inline int on_task_exit(void *unused)
{
	struct process_slots to;

	if (!process_slots(&to))
		return 0;
	ADD(&to, tasks_exited, 1);
	return 0;
}

/* A task is charged with its own release, whoever reaps it. */
static __always_inline int on_task_release(void *task)
{
	struct process_slots to;

	if (!process_slots_of(&to, task))
		return 0;
	ADD(&to, tasks_released, 1);
	return 0;
}

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

SEEN_AT(sys_exit, file_open);
SEEN_AT(sys_exit, file_close);
SEEN_AT(sys_exit, file_close_range);
SEEN_AT(sys_exit, vfs_read);
SEEN_AT(sys_exit, vfs_readv);
SEEN_AT(sys_exit, vfs_write);
SEEN_AT(sys_exit, vfs_writev);
SEEN_AT(sys_exit, vfs_unlink);
SEEN_AT_IN_RETURN_MODE(sys_exit, task_fail);

/* clone(2) and clone3(2) failed: of a thread, or of a process? clone3's flags are in the caller's memory. */
static __always_inline __u64 flags_of_clone(struct pt_regs *regs, enum syscall_kind kind, bool compat)
{
	__u64 first = compat ? SYSCALL_COMPAT_ARG1(regs) : SYSCALL_ARG1(regs), flags = 0;

	if (kind == CALL_CLONE)
		return first;
	if (kind == CALL_CLONE3)
		bpf_probe_read_user(&flags, sizeof(flags), (void *)first);
	return flags;
}

/* TP_PROTO(struct pt_regs *regs, long ret) */
static __always_inline int on_sys_exit(__u64 *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];
	long result = ctx[1];
	bool compat = in_compat_syscall();
	__u32 nr = SYSCALL_NR(regs);
	enum syscall_kind kind = compat ? compat_syscall(nr) : native_syscall(nr);

	switch (kind) {
	case CALL_OPEN:
		return file_open__tracepoint__sys_exit ? on_open(result) : 0;
	case CALL_CLOSE:
		return file_close__tracepoint__sys_exit ? on_close(result) : 0;
	case CALL_CLOSE_RANGE:
		return file_close_range__tracepoint__sys_exit ? on_close(result) : 0;
	case CALL_READ:
		return vfs_read__tracepoint__sys_exit ? on_read(result) : 0;
	case CALL_READV:
		return vfs_readv__tracepoint__sys_exit ? on_read(result) : 0;
	case CALL_WRITE:
		return vfs_write__tracepoint__sys_exit ? on_write(result) : 0;
	case CALL_WRITEV:
		return vfs_writev__tracepoint__sys_exit ? on_write(result) : 0;
	case CALL_UNLINKAT:
		if (SYSCALL_ARG3(regs) & AT_REMOVEDIR)
			return 0;
		/* fall through */
	case CALL_UNLINK:
		return vfs_unlink__tracepoint__sys_exit ? on_unlink(result) : 0;
	case CALL_FORK:
	case CALL_CLONE:
	case CALL_CLONE3:
		if (!task_fail__tracepoint__sys_exit__return || result >= 0)
			return 0;
		return on_task_fail(flags_of_clone(regs, kind, compat));
	default:
		return 0;
	}
}

SHARED_TRACEPOINT(sys_exit, on_sys_exit)

/* ... and tasks come and go at tracepoints, which cost less than a trampoline and miss nothing: one
 * release_task() may release a thread and its leader. The functions are there for who forces a strategy. */

/* TP_PROTO(struct task_struct *task, unsigned long clone_flags); unlike sched_process_fork, which only
 * kernel_clone() reaches, also for the tasks that the kernel makes within a program */
static __always_inline int on_task_newtask(__u64 *ctx)
{
	return on_task_create((void *)ctx[0]);
}

/* TP_PROTO(struct task_struct *p), and group_dead from 6.16 on */
static __always_inline int on_sched_process_exit(__u64 *ctx)
{
	return on_task_exit((void *)ctx[0]);
}

/* TP_PROTO(struct task_struct *p): an RCU grace period after release_task() */
static __always_inline int on_sched_process_free(__u64 *ctx)
{
	return on_task_release((void *)ctx[0]);
}

TRACEPOINT(task_create, task_newtask, on_task_newtask)
FENTRY(task_create, wake_up_new_task, on_task_create)
KPROBE(task_create, wake_up_new_task, on_task_create)

TRACEPOINT(task_exit, sched_process_exit, on_sched_process_exit)
FENTRY(task_exit, do_exit, on_task_exit)
KPROBE(task_exit, do_exit, on_task_exit)

TRACEPOINT(task_release, sched_process_free, on_sched_process_free)
FENTRY(task_release, release_task, on_task_release)
KPROBE(task_release, release_task, on_task_release)

/* Failed clones by the function: kernel_clone() has its flags in an argument block. */
static __always_inline int on_kernel_clone(void *args, long result)
{
	__u64 flags = 0;

	if (result >= 0)
		return 0;
	READ(flags, args, struct kernel_clone_args, flags);
	return on_task_fail(flags);
}

SEC("fexit/kernel_clone")
int task_fail__trampoline__kernel_clone__return(__u64 *ctx)
{
	return on_kernel_clone((void *)ctx[0], (int)ctx[1]);
}

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FORKING);
	__type(key, __u64);
	__type(value, __u64);
} process_forking SEC(".maps");

SEC("kprobe/kernel_clone")
int task_fail__kprobe__kernel_clone__return__args(struct pt_regs *ctx)
{
	__u64 id = bpf_get_current_pid_tgid(), args = KPROBE_ARG1(ctx);

	bpf_map_update_elem(&process_forking, &id, &args, BPF_ANY);
	return 0;
}

SEC("kretprobe/kernel_clone")
int task_fail__kprobe__kernel_clone__return(struct pt_regs *ctx)
{
	__u64 id = bpf_get_current_pid_tgid(), *args = bpf_map_lookup_elem(&process_forking, &id);

	if (args)
		on_kernel_clone((void *)*args, (int)KPROBE_RESULT(ctx));
	bpf_map_delete_elem(&process_forking, &id);
	return 0;
}

LICENSE("GPL");
