/* SPDX-License-Identifier: GPL-2.0-only */
/* The ladder's last step, "totals and row", with one thing done in another way. */
#ifndef EXPERIMENTS_BPF_H
#define EXPERIMENTS_BPF_H

/* The row alone, and no totals beside it: what the totals cost. */
static __always_inline int step_no_totals(__u64 bytes)
{
	struct process_key key = {};
	__u32 side = interval_side();
	void *rows = bpf_map_lookup_elem(&ladder_rows, &side);
	struct ladder_row *row;

	if (!rows)
		return 0;
	current_process(&key);
	row = bpf_map_lookup_elem(rows, &key);
	if (!row)
		row = ladder_new_row(rows, &key, 0, CURRENT_TASK(), CURRENT_IS_TYPED);
	if (!row)
		return 0;
	__sync_fetch_and_add(&row->n.calls, 1);
	__sync_fetch_and_add(&row->n.bytes, bytes);
	return 0;
}

/* Sums that are not atomic in the CPU's own totals: wrong where a program is preempted by another. */
static __always_inline int step_plain_totals(__u64 bytes)
{
	struct ladder_slots to;

	if (!ladder_slots(&to))
		return 0;
	to.totals->calls += 1;
	to.totals->bytes += bytes;
	if (to.row) {
		__sync_fetch_and_add(&to.row->calls, 1);
		__sync_fetch_and_add(&to.row->bytes, bytes);
	}
	return 0;
}

/* The interval's side in a global variable, which a program reads without a lookup. */
__u32 global_side SEC(".data.side") = 0;

static __always_inline struct ladder_totals *totals_of(__u32 side)
{
	return bpf_map_lookup_elem(&ladder_totals, &side);
}

static __always_inline void count_row(struct ladder_row *row, __u64 bytes)
{
	if (!row)
		return;
	__sync_fetch_and_add(&row->n.calls, 1);
	__sync_fetch_and_add(&row->n.bytes, bytes);
}

static __always_inline void count_totals(struct ladder_totals *totals, __u64 bytes)
{
	if (!totals)
		return;
	__sync_fetch_and_add(&totals->n.calls, 1);
	__sync_fetch_and_add(&totals->n.bytes, bytes);
}

static __always_inline int step_global_side(__u64 bytes)
{
	struct process_key key = {};
	__u32 side = *(volatile __u32 *)&global_side & 1;
	void *rows = bpf_map_lookup_elem(&ladder_rows, &side);
	struct ladder_row *row;

	count_totals(totals_of(side), bytes);
	if (!rows)
		return 0;
	current_process(&key);
	row = bpf_map_lookup_elem(rows, &key);
	if (!row)
		row = ladder_new_row(rows, &key, 0, CURRENT_TASK(), CURRENT_IS_TYPED);
	count_row(row, bytes);
	return 0;
}

/* The side's map is named in the program, not looked up in a map of maps: the kernel then calls the hash table's own
 * function, and not through a pointer, which a retpoline makes dear. */
static __always_inline struct ladder_row *row_of_named_map(__u32 side, struct process_key *key)
{
	struct ladder_row *row;

	row = side ? bpf_map_lookup_elem(&ladder_rows_1, key) : bpf_map_lookup_elem(&ladder_rows_0, key);
	if (row)
		return row;
	return side ? ladder_new_row(&ladder_rows_1, key, 0, CURRENT_TASK(), CURRENT_IS_TYPED) :
		      ladder_new_row(&ladder_rows_0, key, 0, CURRENT_TASK(), CURRENT_IS_TYPED);
}

static __always_inline int step_named_map(__u64 bytes)
{
	struct process_key key = {};
	__u32 side = interval_side();

	count_totals(totals_of(side), bytes);
	current_process(&key);
	count_row(row_of_named_map(side, &key), bytes);
	return 0;
}

static __always_inline int step_named_map_global_side(__u64 bytes)
{
	struct process_key key = {};
	__u32 side = *(volatile __u32 *)&global_side & 1;

	count_totals(totals_of(side), bytes);
	current_process(&key);
	count_row(row_of_named_map(side, &key), bytes);
	return 0;
}

/* ... and sums that are not atomic in the totals: all that could be saved without another kind of table. */
static __always_inline int step_named_map_plain_totals(__u64 bytes)
{
	struct process_key key = {};
	__u32 side = interval_side();
	struct ladder_totals *totals = totals_of(side);

	if (totals) {
		totals->n.calls += 1;
		totals->n.bytes += bytes;
	}
	current_process(&key);
	count_row(row_of_named_map(side, &key), bytes);
	return 0;
}

/* The row in the task's own storage: no hash. Nobody could drain such rows but by walking over all tasks. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct ladder_row);
} ladder_of_task SEC(".maps");

static __always_inline int step_task_storage(__u64 bytes)
{
	__u32 side = interval_side();

	count_totals(totals_of(side), bytes);
	count_row(bpf_task_storage_get(&ladder_of_task, bpf_get_current_task_btf(), 0,
			BPF_LOCAL_STORAGE_GET_F_CREATE), bytes);
	return 0;
}

/* Each CPU remembers the last process and the place of its row in an array, which a lookup finds without a hash. */
struct ladder_last {
	struct process_key key;
	__u32 place, side;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ladder_last);
} ladder_last SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIZE);
	__type(key, __u32);
	__type(value, struct ladder_row);
} ladder_places SEC(".maps");

static __always_inline int step_last_row_of_cpu(__u64 bytes)
{
	struct process_key key = {};
	__u32 zero = 0, side = interval_side(), place;
	struct ladder_last *last = bpf_map_lookup_elem(&ladder_last, &zero);
	struct ladder_row *row;

	count_totals(totals_of(side), bytes);
	if (!last)
		return 0;
	current_process(&key);
	if (last->key.tgid != key.tgid || last->key.start_ns != key.start_ns ||
	    last->key.exec_id != key.exec_id || last->side != side) {
		row = row_of_named_map(side, &key);
		if (!row)
			return 0;
		last->key = key;
		last->side = side;
		last->place = key.tgid & (SIZE - 1);
	}
	place = last->place;
	count_row(bpf_map_lookup_elem(&ladder_places, &place), bytes);
	return 0;
}

/* Totals only where there is no row: with the rows' sum they are as exact, and each call is counted once. */
static __always_inline int step_lean(__u64 bytes)
{
	struct process_key key = {};
	__u32 side = *(volatile __u32 *)&global_side & 1;
	struct ladder_row *row;

	current_process(&key);
	row = row_of_named_map(side, &key);
	if (row)
		count_row(row, bytes);
	else
		count_totals(totals_of(side), bytes);
	return 0;
}

/* ... and the place of the last row remembered by each CPU: what is left without a hash. */
static __always_inline int step_lean_last_row(__u64 bytes)
{
	struct process_key key = {};
	__u32 zero = 0, side = *(volatile __u32 *)&global_side & 1, place;
	struct ladder_last *last = bpf_map_lookup_elem(&ladder_last, &zero);
	struct ladder_row *row;

	if (!last)
		return 0;
	current_process(&key);
	if (last->key.tgid != key.tgid || last->key.start_ns != key.start_ns ||
	    last->key.exec_id != key.exec_id || last->side != side) {
		row = row_of_named_map(side, &key);
		if (!row)
			return 0;
		last->key = key;
		last->side = side;
		last->place = key.tgid & (SIZE - 1);
	}
	place = last->place;
	count_row(bpf_map_lookup_elem(&ladder_places, &place), bytes);
	return 0;
}

/* Each CPU gathers what the process does that it runs, and adds it to that process's row when another one comes: no hash
 * and nothing atomic in between. User space would add what a CPU has gathered when it drains the side. Right where no
 * program is preempted by another: kernels that do not preempt themselves, and outside of softirqs. */
struct ladder_gathered {
	struct process_key key;
	struct ladder_counters n;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2); /* one a side */
	__type(key, __u32);
	__type(value, struct ladder_gathered);
} ladder_gathered SEC(".maps");

static __always_inline int gather(__u32 side, __u64 bytes)
{
	struct ladder_gathered *own = bpf_map_lookup_elem(&ladder_gathered, &side);
	struct process_key key = {};
	struct ladder_row *row;

	if (!own)
		return 0;
	current_process(&key);
	if (own->key.start_ns != key.start_ns || own->key.tgid != key.tgid || own->key.exec_id != key.exec_id) {
		if (own->key.tgid) {
			row = row_of_named_map(side, &own->key);
			if (row) {
				__sync_fetch_and_add(&row->n.calls, own->n.calls);
				__sync_fetch_and_add(&row->n.bytes, own->n.bytes);
			}
		}
		own->key = key;
		own->n.calls = own->n.bytes = 0;
	}
	own->n.calls += 1;
	own->n.bytes += bytes;
	return 0;
}

static __always_inline int step_gathered(__u64 bytes)
{
	return gather(interval_side(), bytes);
}

static __always_inline int step_gathered_and_totals(__u64 bytes)
{
	__u32 side = interval_side();

	count_totals(totals_of(side), bytes);
	return gather(side, bytes);
}

/* A key of 8 bytes, where there are 16: what the length of the key costs. (A start alone does not tell processes apart
 * that two CPUs began in the same nanosecond.) */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIZE);
	__type(key, __u64);
	__type(value, struct ladder_row);
} ladder_short SEC(".maps");

static __always_inline int step_short_key(__u64 bytes)
{
	struct ladder_row *row, fresh = {};
	struct process_key key = {};

	count_totals(totals_of(interval_side()), bytes);
	current_process(&key);
	row = bpf_map_lookup_elem(&ladder_short, &key.start_ns);
	if (!row) {
		bpf_map_update_elem(&ladder_short, &key.start_ns, &fresh, BPF_NOEXIST);
		row = bpf_map_lookup_elem(&ladder_short, &key.start_ns);
	}
	count_row(row, bytes);
	return 0;
}

#endif
