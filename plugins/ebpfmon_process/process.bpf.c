// SPDX-License-Identifier: GPL-2.0-only
/* Counts what processes do with files (open, close, read, write, copy, delete) and how tasks are created, exit and are
 * released. events.py lists the programs of each event in the order in which they are tried. */
#include "process.h"

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
	CALL_COPY_FILE_RANGE,
	CALL_SENDFILE,
	CALL_SPLICE,
	CALL_FORK,
	CALL_CLONE,
	CALL_CLONE3,
};

/*	kind			name		x86-64	ia32	arm64		arm */
#define SYSCALLS(CALL)									\
	CALL(CALL_OPEN,		open,		2,	5,	NO_CALL(0),	5)	\
	CALL(CALL_OPEN,		creat,		85,	8,	NO_CALL(1),	8)	\
	CALL(CALL_OPEN,		openat,		257,	295,	56,		322)	\
	CALL(CALL_OPEN,		openat2,	437,	437,	437,		437)	\
	CALL(CALL_CLOSE,	close,		3,	6,	57,		6)	\
	CALL(CALL_CLOSE_RANGE,	close_range,	436,	436,	436,		436)	\
	CALL(CALL_READ,		read,		0,	3,	63,		3)	\
	CALL(CALL_READ,		pread64,	17,	180,	67,		180)	\
	CALL(CALL_READV,	readv,		19,	145,	65,		145)	\
	CALL(CALL_READV,	preadv,		295,	333,	69,		361)	\
	CALL(CALL_READV,	preadv2,	327,	378,	286,		392)	\
	CALL(CALL_WRITE,	write,		1,	4,	64,		4)	\
	CALL(CALL_WRITE,	pwrite64,	18,	181,	68,		181)	\
	CALL(CALL_WRITEV,	writev,		20,	146,	66,		146)	\
	CALL(CALL_WRITEV,	pwritev,	296,	334,	70,		362)	\
	CALL(CALL_WRITEV,	pwritev2,	328,	379,	287,		393)	\
	CALL(CALL_UNLINK,	unlink,		87,	10,	NO_CALL(2),	10)	\
	CALL(CALL_UNLINKAT,	unlinkat,	263,	301,	35,		328)	\
	CALL(CALL_COPY_FILE_RANGE, copy_file_range, 326,	377,	285,		391)	\
	CALL(CALL_SENDFILE,	sendfile,	40,	187,	71,		187)	\
	CALL(CALL_SENDFILE,	sendfile64,	NO_CALL(3), 239, NO_CALL(4),	239)	\
	CALL(CALL_SPLICE,	splice,		275,	313,	76,		340)	\
	CALL(CALL_FORK,		fork,		57,	2,	NO_CALL(5),	2)	\
	CALL(CALL_FORK,		vfork,		58,	190,	NO_CALL(6),	190)	\
	CALL(CALL_CLONE,	clone,		56,	120,	220,		120)	\
	CALL(CALL_CLONE3,	clone3,		435,	435,	435,		435)
#include "syscalls.bpf.h"

#ifndef BCC
/* The opcodes of io_uring's requests are part of the ABI. The headers of older kernels do not have all of them. */
enum uring_opcode {
	IORING_OP_READV = 1,
	IORING_OP_WRITEV = 2,
	IORING_OP_READ_FIXED = 4,
	IORING_OP_WRITE_FIXED = 5,
	IORING_OP_OPENAT = 18,
	IORING_OP_CLOSE = 19,
	IORING_OP_READ = 22,
	IORING_OP_WRITE = 23,
	IORING_OP_OPENAT2 = 28,
	IORING_OP_SPLICE = 30,
	IORING_OP_UNLINKAT = 36,
	IORING_OP_READV_FIXED = 60,
	IORING_OP_WRITEV_FIXED = 61,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct io_cqe {
	__s32 res;
};

/* A request of io_uring. What belongs to its opcode is at its beginning. */
struct io_kiocb {
	__u8 opcode;
	struct io_cqe cqe;
};

struct io_unlink {
	int flags;
};

struct trace_event_raw_io_uring_complete {
	void *req;
};

#pragma clang attribute pop
#endif

/* Which events the two programs at sys_exit count: the one at the raw tracepoint, and the one at the classic
 * tracepoint, which is for kernels that can preempt programs at raw tracepoints. */
const volatile __u8 raw_counts_open = 0;
const volatile __u8 raw_counts_close = 0;
const volatile __u8 raw_counts_close_range = 0;
const volatile __u8 raw_counts_read = 0;
const volatile __u8 raw_counts_readv = 0;
const volatile __u8 raw_counts_write = 0;
const volatile __u8 raw_counts_writev = 0;
const volatile __u8 raw_counts_unlink = 0;
const volatile __u8 raw_counts_copy_file_range = 0;
const volatile __u8 raw_counts_sendfile = 0;
const volatile __u8 raw_counts_splice = 0;
const volatile __u8 raw_counts_failed_clone = 0;
const volatile __u8 classic_counts_open = 0;
const volatile __u8 classic_counts_close = 0;
const volatile __u8 classic_counts_close_range = 0;
const volatile __u8 classic_counts_read = 0;
const volatile __u8 classic_counts_readv = 0;
const volatile __u8 classic_counts_write = 0;
const volatile __u8 classic_counts_writev = 0;
const volatile __u8 classic_counts_unlink = 0;
const volatile __u8 classic_counts_copy_file_range = 0;
const volatile __u8 classic_counts_sendfile = 0;
const volatile __u8 classic_counts_splice = 0;
const volatile __u8 classic_counts_failed_clone = 0;

/* Return the flags of a failed clone(2) or clone3(2), which tell threads from processes. clone3(2) takes them in a
 * struct in the caller's memory. */
static __always_inline __u64 flags_of_clone(struct pt_regs *regs, enum syscall_kind kind)
{
	__u64 first = in_32_bit_call() ? SYSCALL_COMPAT_ARG1(regs) : SYSCALL_ARG1(regs);
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
		return COUNTS(open) ? on_open(result) : 0;
	case CALL_CLOSE:
		return COUNTS(close) ? on_close(result) : 0;
	case CALL_CLOSE_RANGE:
		return COUNTS(close_range) ? on_close(result) : 0;
	case CALL_READ:
		return COUNTS(read) ? on_read(result) : 0;
	case CALL_READV:
		return COUNTS(readv) ? on_read(result) : 0;
	case CALL_WRITE:
		return COUNTS(write) ? on_write(result) : 0;
	case CALL_WRITEV:
		return COUNTS(writev) ? on_write(result) : 0;
	case CALL_UNLINKAT:
		if (SYSCALL_ARG3(regs) & AT_REMOVEDIR)
			return 0;
		/* fall through */
	case CALL_UNLINK:
		return COUNTS(unlink) ? on_unlink(result) : 0;
	case CALL_COPY_FILE_RANGE:
		return COUNTS(copy_file_range) ? on_copy_file_range(result) : 0;
	case CALL_SENDFILE:
		return COUNTS(sendfile) ? on_sendfile(result) : 0;
	case CALL_SPLICE:
		return COUNTS(splice) ? on_splice(result) : 0;
	case CALL_FORK:
	case CALL_CLONE:
	case CALL_CLONE3:
		if (!COUNTS(failed_clone) || result >= 0)
			return 0;
		return on_task_fail(flags_of_clone(regs, kind));
	default:
		return 0;
	}
}

#ifndef BCC
/* A field of a request of io_uring, which tracepoints have as a pointer without a type. */
#define REQUEST_FIELD(request, field)                                                \
	(cfg_may_cast ? READ_FIELD(UNTRUSTED(request), field, true) : READ_FIELD(request, field, false))

/* Handle the completion of a request. If a request completes several times, only the last completion names it. A request
 * completes in a thread of the process that submitted it, or in one that waits for the ring's completions. */
static __always_inline int on_uring_complete(struct io_kiocb *request)
{
	struct io_unlink *unlink = (void *)request;
	long result;

	if (!request)
		return 0;
	result = REQUEST_FIELD(request, cqe.res);
	switch (REQUEST_FIELD(request, opcode)) {
	case IORING_OP_READ:
	case IORING_OP_READV:
	case IORING_OP_READ_FIXED:
	case IORING_OP_READV_FIXED:
		return on_uring_read(result);
	case IORING_OP_WRITE:
	case IORING_OP_WRITEV:
	case IORING_OP_WRITE_FIXED:
	case IORING_OP_WRITEV_FIXED:
		return on_uring_write(result);
	case IORING_OP_OPENAT:
	case IORING_OP_OPENAT2:
		return on_open(result);
	case IORING_OP_CLOSE:
		return on_close(result);
	case IORING_OP_SPLICE:
		return on_splice(result);
	case IORING_OP_UNLINKAT:
		/* The functions where unlink(2) is counted by the other methods also see this request. */
		if (!raw_counts_unlink && !classic_counts_unlink)
			return 0;
		return REQUEST_FIELD(unlink, flags) & AT_REMOVEDIR ? 0 : on_unlink(result);
	default:
		return 0;
	}
}
#endif

static __always_inline int on_wake_up_new_task(struct task_struct *task, const bool typed)
{
	return on_task_create(READ_FIELD(task, pid, typed) != READ_FIELD(task, tgid, typed));
}

/* A task is freed an RCU grace period after release_task(). By then, the thread's leader may have been freed, and its
 * memory may belong to another task. Therefore the facts about the process are stored when the thread exits. If they
 * have been forgotten, because thousands of threads are being freed, the leader is read, if it still belongs to the
 * process. The thread itself is the last resort, because each thread would then have a row of its own. */
static __always_inline int on_task_free(struct task_struct *task)
{
	__u32 pid = READ_FIELD(task, pid, true), tgid = READ_FIELD(task, tgid, true);
	struct caller caller = {}, *at_exit = 0;
	struct task_struct *leader = task;
	__u64 address = (__u64)task;

	if (pid != tgid) {
		at_exit = bpf_map_lookup_elem(&process_exiting, &address);
		leader = READ_FIELD(task, group_leader, true);
		/* A thread that calls execve(2) becomes the leader of the one that was the leader. */
		if (READ_FIELD(leader, pid, true) != tgid ||
		    READ_FIELD(leader, self_exec_id, true) != READ_FIELD(task, self_exec_id, true))
			leader = task;
	}
	if (at_exit && at_exit->process.tgid == tgid) {
		caller = *at_exit;
	} else {
		read_caller(&caller, task, leader, true);
		pad_comm(&caller.identity);
	}
	if (pid != tgid)
		bpf_map_delete_elem(&process_exiting, &address);
	return on_release(&caller);
}

/* release_task() calls this function for each task, for example for a thread and then for its leader. */
static __always_inline int on_cgroup_release(struct task_struct *task, const bool typed)
{
	struct caller caller = {};

	identify(&caller, task, typed);
	return on_release(&caller);
}

/* kernel_clone() takes its flags in a struct. */
static __always_inline int on_kernel_clone(struct kernel_clone_args *args, int result, const bool typed)
{
	return result < 0 ? on_task_fail(READ_FIELD(args, flags, typed)) : 0;
}

static __always_inline int keep_clone_args(__u64 args)
{
	__u64 id = bpf_get_current_pid_tgid();

	bpf_map_update_elem(&process_forking, &id, &args, BPF_ANY);
	return 0;
}

static __always_inline int on_kernel_clone_return(int result)
{
	__u64 id = bpf_get_current_pid_tgid(), *args = bpf_map_lookup_elem(&process_forking, &id);

	if (args)
		on_kernel_clone((struct kernel_clone_args *)*args, result, false);
	bpf_map_delete_elem(&process_forking, &id);
	return 0;
}

/* ---- files, at kernel functions ---- */

SEC("fexit/do_sys_openat2")
int BPF_PROG(do_sys_openat2_fexit, int dfd, void *filename, void *how, int result)
{
	return on_open(result);
}

SEC("kprobe/do_sys_openat2")
int BPF_KPROBE(do_sys_openat2_kprobe)
{
	return on_open(0);
}

SEC("kretprobe/do_sys_openat2")
int BPF_KRETPROBE(do_sys_openat2_kretprobe, int result)
{
	return on_open(result);
}

SEC("fexit/do_sys_open")
int BPF_PROG(do_sys_open_fexit, int dfd, void *filename, int flags, __u32 mode, int result)
{
	return on_open(result);
}

SEC("kprobe/do_sys_open")
int BPF_KPROBE(do_sys_open_kprobe)
{
	return on_open(0);
}

SEC("kretprobe/do_sys_open")
int BPF_KRETPROBE(do_sys_open_kretprobe, int result)
{
	return on_open(result);
}

/* The function that close(2) calls has had three names. Kernels since Linux 6.8 have both close_fd() and
 * file_close_fd(), and there close(2) calls file_close_fd(). */
SEC("fexit/file_close_fd")
int BPF_PROG(file_close_fd_fexit, unsigned int fd, void *file)
{
	return on_close_file(file);
}

SEC("kprobe/file_close_fd")
int BPF_KPROBE(file_close_fd_kprobe)
{
	return on_close_file(0);
}

SEC("kretprobe/file_close_fd")
int BPF_KRETPROBE(file_close_fd_kretprobe, void *file)
{
	return on_close_file(file);
}

SEC("fexit/close_fd")
int BPF_PROG(close_fd_fexit, unsigned int fd, int result)
{
	return on_close(result);
}

SEC("kprobe/close_fd")
int BPF_KPROBE(close_fd_kprobe)
{
	return on_close(0);
}

SEC("kretprobe/close_fd")
int BPF_KRETPROBE(close_fd_kretprobe, int result)
{
	return on_close(result);
}

SEC("fexit/__close_fd")
int BPF_PROG(__close_fd_fexit, void *files, unsigned int fd, int result)
{
	return on_close(result);
}

SEC("kprobe/__close_fd")
int BPF_KPROBE(__close_fd_kprobe)
{
	return on_close(0);
}

SEC("kretprobe/__close_fd")
int BPF_KRETPROBE(__close_fd_kretprobe, int result)
{
	return on_close(result);
}

SEC("fexit/__x64_sys_close_range")
int BPF_PROG(__x64_sys_close_range_fexit, void *regs, long result)
{
	return on_close(result);
}

SEC("kprobe/__x64_sys_close_range")
int BPF_KPROBE(__x64_sys_close_range_kprobe)
{
	return on_close(0);
}

SEC("kretprobe/__x64_sys_close_range")
int BPF_KRETPROBE(__x64_sys_close_range_kretprobe, long result)
{
	return on_close(result);
}

SEC("fexit/__ia32_sys_close_range")
int BPF_PROG(__ia32_sys_close_range_fexit, void *regs, long result)
{
	return on_close(result);
}

SEC("kprobe/__ia32_sys_close_range")
int BPF_KPROBE(__ia32_sys_close_range_kprobe)
{
	return on_close(0);
}

SEC("kretprobe/__ia32_sys_close_range")
int BPF_KRETPROBE(__ia32_sys_close_range_kretprobe, long result)
{
	return on_close(result);
}

SEC("fexit/__arm64_sys_close_range")
int BPF_PROG(__arm64_sys_close_range_fexit, void *regs, long result)
{
	return on_close(result);
}

SEC("kprobe/__arm64_sys_close_range")
int BPF_KPROBE(__arm64_sys_close_range_kprobe)
{
	return on_close(0);
}

SEC("kretprobe/__arm64_sys_close_range")
int BPF_KRETPROBE(__arm64_sys_close_range_kretprobe, long result)
{
	return on_close(result);
}

SEC("fexit/vfs_read")
int BPF_PROG(vfs_read_fexit, void *file, void *buf, __u64 size, void *pos, long result)
{
	return on_read(result);
}

SEC("kretprobe/vfs_read")
int BPF_KRETPROBE(vfs_read_kretprobe, long result)
{
	return on_read(result);
}

SEC("fexit/vfs_readv")
int BPF_PROG(vfs_readv_fexit, void *file, void *vec, __u64 length, void *pos, int flags, long result)
{
	return on_read(result);
}

SEC("kretprobe/vfs_readv")
int BPF_KRETPROBE(vfs_readv_kretprobe, long result)
{
	return on_read(result);
}

SEC("fexit/vfs_write")
int BPF_PROG(vfs_write_fexit, void *file, void *buf, __u64 size, void *pos, long result)
{
	return on_write(result);
}

SEC("kretprobe/vfs_write")
int BPF_KRETPROBE(vfs_write_kretprobe, long result)
{
	return on_write(result);
}

SEC("fexit/vfs_writev")
int BPF_PROG(vfs_writev_fexit, void *file, void *vec, __u64 length, void *pos, int flags, long result)
{
	return on_write(result);
}

SEC("kretprobe/vfs_writev")
int BPF_KRETPROBE(vfs_writev_kretprobe, long result)
{
	return on_write(result);
}

/* This is not vfs_unlink(), because that is called only if the file exists, and again by stacked filesystems. */
SEC("fexit/do_unlinkat")
int BPF_PROG(do_unlinkat_fexit, int dfd, void *name, int result)
{
	return on_unlink(result);
}

SEC("kprobe/do_unlinkat")
int BPF_KPROBE(do_unlinkat_kprobe)
{
	return on_unlink(0);
}

SEC("kretprobe/do_unlinkat")
int BPF_KRETPROBE(do_unlinkat_kretprobe, int result)
{
	return on_unlink(result);
}

SEC("fexit/filename_unlinkat")
int BPF_PROG(filename_unlinkat_fexit, int dfd, void *name, int result)
{
	return on_unlink(result);
}

SEC("kprobe/filename_unlinkat")
int BPF_KPROBE(filename_unlinkat_kprobe)
{
	return on_unlink(0);
}

SEC("kretprobe/filename_unlinkat")
int BPF_KRETPROBE(filename_unlinkat_kretprobe, int result)
{
	return on_unlink(result);
}

/* This is not vfs_copy_file_range(), because stacked filesystems call that again for the file below, and nfsd calls it
 * too. */
SEC("fexit/__x64_sys_copy_file_range")
int BPF_PROG(__x64_sys_copy_file_range_fexit, void *regs, long result)
{
	return on_copy_file_range(result);
}

SEC("kretprobe/__x64_sys_copy_file_range")
int BPF_KRETPROBE(__x64_sys_copy_file_range_kretprobe, long result)
{
	return on_copy_file_range(result);
}

SEC("fexit/__ia32_sys_copy_file_range")
int BPF_PROG(__ia32_sys_copy_file_range_fexit, void *regs, long result)
{
	return on_copy_file_range(result);
}

SEC("kretprobe/__ia32_sys_copy_file_range")
int BPF_KRETPROBE(__ia32_sys_copy_file_range_kretprobe, long result)
{
	return on_copy_file_range(result);
}

SEC("fexit/__arm64_sys_copy_file_range")
int BPF_PROG(__arm64_sys_copy_file_range_fexit, void *regs, long result)
{
	return on_copy_file_range(result);
}

SEC("kretprobe/__arm64_sys_copy_file_range")
int BPF_KRETPROBE(__arm64_sys_copy_file_range_kretprobe, long result)
{
	return on_copy_file_range(result);
}

/* sendfile(2) and sendfile64(2), of 64-bit and of 32-bit programs, call this function, and nothing else does. */
SEC("fexit/do_sendfile")
int BPF_PROG(do_sendfile_fexit, int out, int in, void *pos, __u64 size, __s64 max, long result)
{
	return on_sendfile(result);
}

SEC("kretprobe/do_sendfile")
int BPF_KRETPROBE(do_sendfile_kretprobe, long result)
{
	return on_sendfile(result);
}

SEC("fexit/__x64_sys_splice")
int BPF_PROG(__x64_sys_splice_fexit, void *regs, long result)
{
	return on_splice(result);
}

SEC("kretprobe/__x64_sys_splice")
int BPF_KRETPROBE(__x64_sys_splice_kretprobe, long result)
{
	return on_splice(result);
}

SEC("fexit/__ia32_sys_splice")
int BPF_PROG(__ia32_sys_splice_fexit, void *regs, long result)
{
	return on_splice(result);
}

SEC("kretprobe/__ia32_sys_splice")
int BPF_KRETPROBE(__ia32_sys_splice_kretprobe, long result)
{
	return on_splice(result);
}

SEC("fexit/__arm64_sys_splice")
int BPF_PROG(__arm64_sys_splice_fexit, void *regs, long result)
{
	return on_splice(result);
}

SEC("kretprobe/__arm64_sys_splice")
int BPF_KRETPROBE(__arm64_sys_splice_kretprobe, long result)
{
	return on_splice(result);
}

/* ---- files and failed clones, at the exit of all system calls ---- */

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

/* ---- files, at the completion of io_uring's requests ---- */

#ifndef BCC
/* Linux 502c87d65564 ("io-uring: Make tracepoints consistent.") (in v5.18) added the request to the tracepoint. */
SEC("tp_btf/io_uring_complete")
int BPF_PROG(io_uring_complete_tp_btf, void *ring, struct io_kiocb *request)
{
	return on_uring_complete(request);
}

SEC("tp/io_uring/io_uring_complete")
int io_uring_complete_tp(struct trace_event_raw_io_uring_complete *ctx)
{
	return on_uring_complete(ctx->req);
}
#endif

/* ---- tasks, at tracepoints, which cost less than a trampoline ---- */

/* This is not sched_process_fork, because only kernel_clone() reaches that. task_newtask also covers tasks that the
 * kernel creates in a process, such as io_uring's workers. */
SEC("tp_btf/task_newtask")
int BPF_PROG(task_newtask_tp_btf, struct task_struct *task, unsigned long clone_flags)
{
	return on_task_create(clone_flags & CLONE_THREAD);
}

SEC("tp/task/task_newtask")
int task_newtask_tp(struct trace_event_raw_task_newtask *ctx)
{
	return on_task_create(ctx->clone_flags & CLONE_THREAD);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit_tp_btf)
{
	return on_task_exit();
}

SEC("tp/sched/sched_process_exit")
int sched_process_exit_tp(void *ctx)
{
	return on_task_exit();
}

SEC("tp_btf/sched_process_free")
int BPF_PROG(sched_process_free_tp_btf, struct task_struct *task)
{
	return on_task_free(task);
}

/* ---- tasks, at kernel functions ---- */

SEC("fentry/wake_up_new_task")
int BPF_PROG(wake_up_new_task_fentry, struct task_struct *task)
{
	return on_wake_up_new_task(task, true);
}

SEC("kprobe/wake_up_new_task")
int BPF_KPROBE(wake_up_new_task_kprobe, struct task_struct *task)
{
	return on_wake_up_new_task(task, false);
}

SEC("fentry/do_exit")
int BPF_PROG(do_exit_fentry)
{
	return on_task_exit();
}

SEC("kprobe/do_exit")
int BPF_KPROBE(do_exit_kprobe)
{
	return on_task_exit();
}

SEC("fentry/cgroup_task_release")
int BPF_PROG(cgroup_task_release_fentry, struct task_struct *task)
{
	return on_cgroup_release(task, true);
}

SEC("kprobe/cgroup_task_release")
int BPF_KPROBE(cgroup_task_release_kprobe, struct task_struct *task)
{
	return on_cgroup_release(task, false);
}

SEC("fentry/cgroup_release")
int BPF_PROG(cgroup_release_fentry, struct task_struct *task)
{
	return on_cgroup_release(task, true);
}

SEC("kprobe/cgroup_release")
int BPF_KPROBE(cgroup_release_kprobe, struct task_struct *task)
{
	return on_cgroup_release(task, false);
}

SEC("fexit/kernel_clone")
int BPF_PROG(kernel_clone_fexit, struct kernel_clone_args *args, int result)
{
	return on_kernel_clone(args, result, true);
}

SEC("kprobe/kernel_clone")
int BPF_KPROBE(kernel_clone_kprobe, __u64 args)
{
	return keep_clone_args(args);
}

SEC("kretprobe/kernel_clone")
int BPF_KRETPROBE(kernel_clone_kretprobe, int result)
{
	return on_kernel_clone_return(result);
}

char LICENSE[] SEC("license") = "GPL";
