/* SPDX-License-Identifier: Apache-2.0 */
/* Swap and drain a table in C: switch the programs to the other buffer, wait for those that still write to this one,
 * read and delete all its rows in one call, and sum their counters, which are the last fields of a row. */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int swap_and_drain(int interval_fd, int outer_fd, int rows_fd, uint32_t buffer, uint32_t capacity, uint32_t key_size,
		   uint32_t value_size, uint32_t counters, uint64_t *sums)
{
	static char *keys, *values;
	static uint32_t room;
	uint32_t zero = 0, other = !buffer, count = capacity, after[2];

	if (room < capacity) {
		free(keys);
		free(values);
		keys = malloc((size_t)capacity * key_size);
		values = malloc((size_t)capacity * value_size);
		room = capacity;
	}
	if (bpf_map_update_elem(interval_fd, &zero, &other, BPF_ANY) ||
	    bpf_map_update_elem(outer_fd, &buffer, &rows_fd, BPF_ANY)) /* waits for the RCU grace period */
		return -1;
	if (bpf_map_lookup_and_delete_batch(rows_fd, NULL, after, keys, values, &count, NULL) && errno != ENOENT)
		return -1;
	memset(sums, 0, counters * sizeof(*sums));
	for (uint32_t row = 0; row < count; row++) {
		uint64_t *n = (uint64_t *)(values + (size_t)(row + 1) * value_size) - counters;

		for (uint32_t i = 0; i < counters; i++)
			sums[i] += n[i];
	}
	return count;
}
