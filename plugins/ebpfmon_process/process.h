/* SPDX-License-Identifier: GPL-2.0-only */
/* Counters of the process probe, and handlers of its events. */
#ifndef EBPFMON_PROCESS_H
#define EBPFMON_PROCESS_H

#include "ebpfmon.bpf.h"

/* Processes that can be active in one interval before the table overflows. Two buffers of 16,384 rows of 352 bytes, key
 * and hash table included, are 11.5 MB of kernel memory. The setting table_size overrides it. */
#define PROCESSES 16384
/* Calls of kernel_clone() in progress at once. A kprobe stores their arguments, because a kretprobe has none. Less than
 * 0.1 MB. */
#define FORKING 1024
/* Threads that have exited and are not freed yet, which takes an RCU grace period. Less than 0.5 MB. */
#define EXITING 4096

struct process_counters {
	__u64 open_calls, open_errors;
	__u64 close_calls, close_errors;
	__u64 read_calls, read_errors, read_bytes;
	__u64 write_calls, write_errors, write_bytes;
	__u64 unlink_calls, unlink_errors;
	__u64 copy_file_range_calls, copy_file_range_bytes;
	__u64 sendfile_calls, sendfile_bytes;
	__u64 splice_calls, splice_bytes;
	__u64 copy_errors;	/* of these three calls together */
	__u64 uring_read_calls, uring_read_bytes;
	__u64 uring_write_calls, uring_write_bytes;
	__u64 uring_errors;	/* of these reads and writes together */
	__u64 processes_created, processes_failed;
	__u64 threads_created, threads_failed;
	__u64 tasks_exited, tasks_released;
};

#define TABLE process
#define TABLE_SIZE PROCESSES
#include "process_table.bpf.h"

/* What a thread's process was when the thread exited, by the address of the thread's task. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, EXITING);
	__type(key, __u64);
	__type(value, struct caller);
} process_exiting SEC(".maps");

/* The arguments of a thread's call of kernel_clone(), by thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FORKING);
	__type(key, __u64);
	__type(value, __u64);
} process_forking SEC(".maps");

static __always_inline int on_open(int result)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	count(&counters->open_calls, 1);
	if (cfg_return && result < 0)
		count(&counters->open_errors, 1);
	return 0;
}

static __always_inline int on_close(int result)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	count(&counters->close_calls, 1);
	if (cfg_return && result < 0)
		count(&counters->close_errors, 1);
	return 0;
}

/* file_close_fd() returns the file of the descriptor, or NULL. */
static __always_inline int on_close_file(void *file)
{
	return on_close(file ? 0 : -1);
}

static __always_inline int count_transfer(long result, __u64 *calls, __u64 *bytes, __u64 *errors)
{
	count(calls, 1);
	if (result > 0)
		count(bytes, result);
	else if (cfg_return && result < 0)
		count(errors, 1);
	return 0;
}

static __always_inline int on_read(long result)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	return count_transfer(result, &counters->read_calls, &counters->read_bytes, &counters->read_errors);
}

static __always_inline int on_write(long result)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	return count_transfer(result, &counters->write_calls, &counters->write_bytes, &counters->write_errors);
}

static __always_inline int on_copy_file_range(long result)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	return count_transfer(result, &counters->copy_file_range_calls, &counters->copy_file_range_bytes, &counters->copy_errors);
}

static __always_inline int on_sendfile(long result)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	return count_transfer(result, &counters->sendfile_calls, &counters->sendfile_bytes, &counters->copy_errors);
}

static __always_inline int on_splice(long result)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	return count_transfer(result, &counters->splice_calls, &counters->splice_bytes, &counters->copy_errors);
}

static __always_inline int on_uring_read(long result)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	return count_transfer(result, &counters->uring_read_calls, &counters->uring_read_bytes, &counters->uring_errors);
}

static __always_inline int on_uring_write(long result)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	return count_transfer(result, &counters->uring_write_calls, &counters->uring_write_bytes, &counters->uring_errors);
}

static __always_inline int on_unlink(int result)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	count(&counters->unlink_calls, 1);
	if (cfg_return && result < 0)
		count(&counters->unlink_errors, 1);
	return 0;
}

/* Count a new task for its creator, the current task. A task with a tgid of its own is a process. Any other is a
 * thread, created by the program or by the kernel for it (workers of io_uring and vhost). */
static __always_inline int on_task_create(bool thread)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	if (thread)
		count(&counters->threads_created, 1);
	else
		count(&counters->processes_created, 1);
	return 0;
}

static __always_inline int on_task_fail(__u64 clone_flags)
{
	struct process_counters *counters = process_find_cached();

	if (!counters)
		return 0;
	if (clone_flags & CLONE_THREAD)
		count(&counters->threads_failed, 1);
	else
		count(&counters->processes_failed, 1);
	return 0;
}

static __always_inline int on_task_exit(void)
{
	__u64 task = bpf_get_current_task(), id = bpf_get_current_pid_tgid();
	struct process_counters *counters;
	struct caller caller = {};

	current_caller(&caller);
	if (cfg_rows && (__u32)id != id >> 32)
		bpf_map_update_elem(&process_exiting, &task, &caller, BPF_ANY);
	counters = process_find_for(&caller);
	if (!counters)
		return 0;
	count(&counters->tasks_exited, 1);
	return 0;
}

/* Count a release for the task's own process, whichever process reaps it. */
static __always_inline int on_release(struct caller *caller)
{
	struct process_counters *counters = process_find_for(caller);

	if (!counters)
		return 0;
	count(&counters->tasks_released, 1);
	return 0;
}

#endif
