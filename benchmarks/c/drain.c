/* SPDX-License-Identifier: Apache-2.0 */
/* What swapping and draining a table takes in C: the programs to the other side, the wait for those that still write to
 * the first, all of its rows in one call, and the sums of their counters, which stand last. */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int swap_and_drain(int interval_fd, int outer_fd, int rows_fd, uint32_t side, uint32_t capacity, uint32_t key_size,
		   uint32_t value_size, uint32_t counters, uint64_t *sums)
{
	static char *keys, *values;
	static uint32_t room;
	uint32_t zero = 0, other = !side, count = capacity, after[2];

	if (room < capacity) {
		free(keys);
		free(values);
		keys = malloc((size_t)capacity * key_size);
		values = malloc((size_t)capacity * value_size);
		room = capacity;
	}
	if (bpf_map_update_elem(interval_fd, &zero, &other, BPF_ANY) ||
	    bpf_map_update_elem(outer_fd, &side, &rows_fd, BPF_ANY)) /* waits for a grace period */
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
