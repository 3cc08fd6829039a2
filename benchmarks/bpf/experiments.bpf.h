/* SPDX-License-Identifier: GPL-2.0-only */
/* Variants of the ladder's steps "row" and "cached", each with one thing done differently. */
#ifndef EXPERIMENTS_BPF_H
#define EXPERIMENTS_BPF_H

/* ---- variants that look up the row in every call ---- */

/* Count totals in addition to the row. */
static __always_inline int step_row_and_totals(__u64 bytes)
{
	count_read(ladder_without_row(current_buffer(), false), bytes);
	return count_read(ladder_find(), bytes);
}

/* Name the buffer's map in the program instead of looking it up in a map of maps. The kernel then calls the hash
 * table's lookup function directly, without a retpoline. */
static __always_inline int step_named_map(__u64 bytes)
{
	struct ladder_counters *counters, fresh = {};
	__u32 buffer = current_buffer();
	struct caller caller = {};

	current_caller(&caller);
	counters = buffer ? bpf_map_lookup_elem(&ladder_rows_1, &caller) : bpf_map_lookup_elem(&ladder_rows_0, &caller);
	if (counters)
		return count_read(counters, bytes);
	if (buffer)
		bpf_map_update_elem(&ladder_rows_1, &caller, &fresh, BPF_NOEXIST);
	else
		bpf_map_update_elem(&ladder_rows_0, &caller, &fresh, BPF_NOEXIST);
	return 0;
}

/* The same, with a key of 8 bytes instead of 48. (The start time alone is not unique: two CPUs can start processes in
 * the same nanosecond.) */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIZE);
	__type(key, __u64);
	__type(value, struct ladder_counters);
} ladder_short SEC(".maps");

static __always_inline int step_short_key(__u64 bytes)
{
	struct ladder_counters *row, fresh = {};
	struct process_key key = {};

	current_process(&key);
	row = bpf_map_lookup_elem(&ladder_short, &key.start_ns);
	if (!row) {
		bpf_map_update_elem(&ladder_short, &key.start_ns, &fresh, BPF_NOEXIST);
		row = bpf_map_lookup_elem(&ladder_short, &key.start_ns);
	}
	return row ? count_read(row, bytes) : 0;
}

/* Keep the row in task storage, without a hash table. Such rows can only be drained by walking over all tasks. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct ladder_counters);
} ladder_of_task SEC(".maps");

static __always_inline int step_task_storage(__u64 bytes)
{
	struct ladder_counters *row = bpf_task_storage_get(&ladder_of_task, bpf_get_current_task_btf(), 0,
							   BPF_LOCAL_STORAGE_GET_F_CREATE);

	return row ? count_read(row, bytes) : 0;
}

/* Let each CPU remember its last process and the index of that row in an array, whose lookup needs no hash. */
struct ladder_last {
	struct process_key key;
	__u32 index, buffer;
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
	__type(value, struct ladder_counters);
} ladder_indexed SEC(".maps");

static __always_inline int step_last_row(__u64 bytes)
{
	struct process_key key = {};
	__u32 zero = 0, buffer = current_buffer(), index;
	struct ladder_last *last = bpf_map_lookup_elem(&ladder_last, &zero);
	struct ladder_counters *row;

	if (!last)
		return 0;
	current_process(&key);
	if (last->key.tgid != key.tgid || last->key.start_ns != key.start_ns ||
	    last->key.exec_id != key.exec_id || last->buffer != buffer) {
		last->key = key;
		last->buffer = buffer;
		last->index = key.tgid & (SIZE - 1);
	}
	index = last->index;
	row = bpf_map_lookup_elem(&ladder_indexed, &index);
	return row ? count_read(row, bytes) : 0;
}

/* ---- variants with the row in the per-CPU cache ---- */

/* Add without atomic instructions. */
static __always_inline int step_cached_plain(__u64 bytes)
{
	struct ladder_counters *counters = ladder_find_cached();

	if (!counters)
		return 0;
	counters->calls += 1;
	counters->bytes += bytes;
	return 0;
}

/* Keep the number of the current buffer in a map. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} ladder_interval SEC(".maps");

static __always_inline int step_cached_buffer_in_map(__u64 bytes)
{
	__u32 zero = 0, *current = bpf_map_lookup_elem(&ladder_interval, &zero), buffer;
	struct ladder_cache *cache;

	if (!current)
		return 0;
	buffer = *current & 1;
	cache = bpf_map_lookup_elem(&ladder_cache, &buffer);
	if (!cache)
		return 0;
	if (!is_current(&cache->caller, cache->raw_comm) && !ladder_flush(cache, buffer))
		return 0;
	return count_read(&cache->counters, bytes);
}

/* Count totals in addition to the cached row. */
static __always_inline int step_cached_and_totals(__u64 bytes)
{
	count_read(ladder_without_row(current_buffer(), false), bytes);
	return count_read(ladder_find_cached(), bytes);
}

#endif
