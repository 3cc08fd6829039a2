// SPDX-License-Identifier: GPL-2.0-only
/* Records the command line and the file of each program that execve(2) starts, so that even a short-lived process can
 * be assigned to its application. */
#include "ebpfmon.bpf.h"

/* Programs that can start in one interval before the table is full. Further programs that end before /proc is read are
 * known by their comm only. Two buffers of 4,096 rows of 448 bytes, key and hash table included, are 3.7 MB. */
#define EXECS 4096
/* Longer command lines are cut, because patterns of groups match the program and its first arguments. */
#define ARGUMENTS 256
#define EXECUTABLE 64

struct execs_counters {
	__u64 execs;
	__u64 unread;	/* command lines that could not be read */
};

struct execs_row {
	char executable[EXECUTABLE];	/* the file's name, without its path */
	char arguments[ARGUMENTS];	/* each ending with a NUL */
	struct execs_counters counters;
};
_Static_assert(sizeof(struct execs_row) == 336, "execs_row has no padding");

#define TABLE execs
#define TABLE_SIZE EXECS
#define TABLE_KEY struct caller
#define TABLE_ROW struct execs_row
#include "table_maps.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct execs_row);
} execs_scratch SEC(".maps"); /* A row is too big for the stack. */

static __always_inline void read_program(struct execs_row *row, struct task_struct *task, const bool typed)
{
	struct mm_struct *mm = READ_FIELD(task, mm, typed);
	unsigned long start = READ_FIELD(mm, arg_start, typed);
	unsigned long size = READ_FIELD(mm, arg_end, typed) - start;
	struct file *file = READ_FIELD(mm, exe_file, typed);
	struct dentry *dentry = READ_FIELD(file, f_path.dentry, typed);

	if (size > ARGUMENTS)
		size = ARGUMENTS;
	if (bpf_probe_read_user(row->arguments, size, (void *)start))
		row->counters.unread = 1;
	bpf_probe_read_kernel_str(row->executable, EXECUTABLE, (void *)READ_FIELD(dentry, d_name.name, typed));
}

static __always_inline int on_exec(void)
{
	__u32 zero = 0, buffer = current_buffer();
	struct execs_row *row = bpf_map_lookup_elem(&execs_scratch, &zero);
	void *rows = bpf_map_lookup_elem(&execs_rows, &buffer);
	struct execs_counters *counters;
	struct caller caller = {};

	if (!row || !rows)
		return 0;
	__builtin_memset(row, 0, sizeof(*row));
	current_caller(&caller);
	if (CURRENT_IS_TYPED)
		read_program(row, this_task(), true);
	else
		read_program(row, this_task(), false);
	row->counters.execs = 1;
	if (!bpf_map_update_elem(rows, &caller, row, BPF_ANY))
		return 0;
	counters = execs_without_row(buffer, true);
	if (!counters)
		return 0;
	count(&counters->execs, 1);
	count(&counters->unread, row->counters.unread);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec_tp_btf)
{
	return on_exec();
}

SEC("tp/sched/sched_process_exec")
int sched_process_exec_tp(void *ctx)
{
	return on_exec();
}

/* Binary formats call finalize_exec() right before the program starts, when its arguments are in place. */
SEC("fentry/finalize_exec")
int BPF_PROG(finalize_exec_fentry)
{
	return on_exec();
}

SEC("kprobe/finalize_exec")
int BPF_KPROBE(finalize_exec_kprobe)
{
	return on_exec();
}

char LICENSE[] SEC("license") = "GPL";
