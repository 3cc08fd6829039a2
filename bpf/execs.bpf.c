// SPDX-License-Identifier: GPL-2.0-only
/* What a process became with execve(2): its command line and its file, for telling which application it belongs to,
 * however short its life. */
#include "ebpfmon.bpf.h"

/* So many programs may be started in one interval before any finds no room; then what started is known by its comm
 * alone, if /proc is too late. Two sides of 4,096 rows of 432 bytes, key and hash element included, are 3.5 MB. */
#define EXECS 4096
/* Of a longer command line the beginning: a pattern of a group is about a program and its first arguments. */
#define ARGUMENTS 256
#define EXECUTABLE 64

struct execs_counters {
	__u64 execs;
	__u64 unread;	/* command lines that could not be read */
};

struct execs_row {
	struct process_identity who;
	char executable[EXECUTABLE];	/* the file's name, without its path */
	char arguments[ARGUMENTS];	/* each ends with a NUL */
	struct execs_counters n;
};
_Static_assert(sizeof(struct execs_row) == 368, "execs_row has no padding");

struct execs_totals {
	struct execs_counters n;
	__u64 overflow;
};

INTERVAL_TABLE(execs_rows, struct process_key, struct execs_row, EXECS);
TOTALS(execs_totals, struct execs_totals);

#ifndef BCC
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct execs_row);
} execs_scratch SEC(".maps"); /* a row is too big for the stack */
#endif

static __always_inline void read_program(struct execs_row *row)
{
	unsigned long start = 0, end = 0, size;
	void *mm = 0, *file = 0, *dentry = 0, *name = 0;

	LOAD(CURRENT_IS_TYPED, mm, CURRENT_TASK(), struct task_struct, mm);
	LOAD(CURRENT_IS_TYPED, start, mm, struct mm_struct, arg_start);
	LOAD(CURRENT_IS_TYPED, end, mm, struct mm_struct, arg_end);
	size = end - start;
	if (size > ARGUMENTS)
		size = ARGUMENTS;
	if (bpf_probe_read_user(row->arguments, size, (void *)start))
		row->n.unread = 1;
	LOAD(CURRENT_IS_TYPED, file, mm, struct mm_struct, exe_file);
	LOAD(CURRENT_IS_TYPED, dentry, file, struct file, f_path.dentry);
	LOAD(CURRENT_IS_TYPED, name, dentry, struct dentry, d_name.name);
	bpf_probe_read_kernel_str(row->executable, EXECUTABLE, name);
}

static __always_inline int on_exec(void)
{
	__u32 zero = 0, side = interval_side();
	struct execs_totals *totals = bpf_map_lookup_elem(MAP(execs_totals), &side);
	struct execs_row *row = bpf_map_lookup_elem(MAP(execs_scratch), &zero);
	void *rows = bpf_map_lookup_elem(MAP(execs_rows), &side);
	struct process_key key = {};

	if (!totals || !row || !rows)
		return 0;
	__builtin_memset(row, 0, sizeof(*row));
	current_process(&key);
	identify(CURRENT_TASK(), &row->who, CURRENT_IS_TYPED);
	read_program(row);
	row->n.execs = 1;
	if (!bpf_map_update_elem(rows, &key, row, BPF_ANY))
		return 0;
	__sync_fetch_and_add(&totals->n.execs, 1);
	__sync_fetch_and_add(&totals->n.unread, row->n.unread);
	__sync_fetch_and_add(&totals->overflow, 1);
	return 0;
}

static __always_inline int on_sched_process_exec(void *ctx)
{
	return on_exec();
}
TRACEPOINT(exec, sched_process_exec, on_sched_process_exec)
CLASSIC_TRACEPOINT(exec, sched, sched_process_exec, on_sched_process_exec)

/* What a binary format calls when all is in place, arguments too, right before the program begins. */
static __always_inline int on_finalize_exec(void *bprm, const bool typed)
{
	return on_exec();
}
FENTRY(exec, finalize_exec, on_finalize_exec)
KPROBE(exec, finalize_exec, on_finalize_exec)

LICENSE("GPL");
