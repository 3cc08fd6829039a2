// SPDX-License-Identifier: GPL-2.0-only
/* What each disk is asked for: requests from when they are issued to its driver to when they are complete. */
#include "ebpfmon.bpf.h"

/* Disks that do something in one interval. Two sides of 256 rows of 1 kB, key and hash element included, are 0.5 MB of
 * kernel memory. The setting table_size changes it. */
#define DISKS 256
/* Requests that are under way at once; what finds no room is counted as `unfollowed`. 32,768 of 88 bytes are 2.9 MB: more
 * than 100 disks have in all their queues. */
#define UNDER_WAY 32768
/* Latencies: up to 8 microseconds, twice that ... 33.6 seconds, and more. */
#define UNIT_NS 8000
#define SLOTS 24

/* enum req_op: Linux has never renumbered these */
#define REQ_OP_MASK 0xff
#define REQ_OP_READ 0
#define REQ_OP_WRITE 1
#define REQ_OP_FLUSH 2
#define REQ_OP_DISCARD 3
#define REQ_OP_SECURE_ERASE 5
#define REQ_OP_WRITE_ZEROES 9

#ifdef BCC
#pragma ebpfmon include <linux/blkdev.h>
#pragma ebpfmon include <linux/blk-mq.h>
#else
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct gendisk {
	int major;
	int first_minor;
};

struct request_queue {
	struct gendisk *disk;
};

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int __data_len;
};

/* Linux f3fa33acca9f ("block: remove the ->rq_disk field in struct request") (in v5.17) */
struct request___old {
	struct gendisk *rq_disk;
};
#pragma clang attribute pop
#endif

struct block_io_key {
	__u32 device;	/* of the whole disk: major << 20 | minor */
	__u32 unused;
};
_Static_assert(sizeof(struct block_io_key) == 8, "block_io_key has no padding");

#define OF_EACH_OPERATION(op)                                                        \
	__u64 op##_issued;	/* and followed until it is complete */              \
	__u64 op##_requests;	/* that are complete */                              \
	__u64 op##_errors;	/* ... of which in vain */                           \
	__u64 op##_bytes;	/* that were moved */                                \
	__u64 op##_ns;		/* that complete requests took, together */          \
	__u64 op##_latency[SLOTS]

struct block_io_counters {
	OF_EACH_OPERATION(read);
	OF_EACH_OPERATION(write);
	OF_EACH_OPERATION(flush);
	OF_EACH_OPERATION(discard);
	__u64 unfollowed;	/* issued when too many were under way */
};

KEYED_TABLE(block_io, struct block_io_key, DISKS);

struct block_io_request {
	__u64 issued_ns;
	__u32 device;
	__u32 operation;
};

#ifndef BCC
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, UNDER_WAY);
	__type(key, __u64);
	__type(value, struct block_io_request);
} block_io_under_way SEC(".maps");
#endif

static __always_inline __u32 device_of(void *request)
{
	void *queue = 0, *disk = 0;
	int major = 0, minor = 0;

#ifdef BCC
	/* The flag went in v5.15 (Linux "block: remove GENHD_FL_UP"), when queues knew their disks already. */
#pragma ebpfmon ifdef GENHD_FL_UP
	READ(disk, request, struct request, rq_disk);
#pragma ebpfmon else
	READ(queue, request, struct request, q);
	READ(disk, queue, struct request_queue, disk);
#pragma ebpfmon endif
#else
	if (HAS_FIELD(struct request___old, rq_disk)) {
		LOAD(true, disk, request, struct request___old, rq_disk);
	} else {
		LOAD(true, queue, request, struct request, q);
		LOAD(true, disk, queue, struct request_queue, disk);
	}
	if (!disk)
		return 0;
#endif
	LOAD(true, major, disk, struct gendisk, major);
	LOAD(true, minor, disk, struct gendisk, first_minor);
	return (__u32)major << 20 | (__u32)minor;
}

/* One of the four, or another number: what programs send to a disk themselves, and zones, is not counted. */
static __always_inline __u32 operation_of(void *request)
{
	unsigned int flags = 0, operation;

	LOAD(true, flags, request, struct request, cmd_flags);
	operation = flags & REQ_OP_MASK;
	if (operation == REQ_OP_WRITE_ZEROES)
		return REQ_OP_WRITE;
	if (operation == REQ_OP_SECURE_ERASE)
		return REQ_OP_DISCARD;
	return operation;
}

#define ADD_OF(to, operation, what)                                                  \
	do {                                                                         \
		if (operation == REQ_OP_READ)                                        \
			ADD(to, read_##what, 1);                                     \
		else if (operation == REQ_OP_WRITE)                                  \
			ADD(to, write_##what, 1);                                    \
		else if (operation == REQ_OP_FLUSH)                                  \
			ADD(to, flush_##what, 1);                                    \
		else                                                                 \
			ADD(to, discard_##what, 1);                                  \
	} while (0)

/* Merges are over by then. A driver that is busy gives a request back, and it is issued again: it is the same one. If it
 * is another one in the same place, the kernel left out the program at the end of the last one, and counted that. */
static __always_inline int on_issue(void *request)
{
	struct block_io_request issued = {}, *before;
	__u64 address = (__u64)request;
	struct block_io_key key = {};
	struct block_io_slots to;

	issued.operation = operation_of(request);
	if (issued.operation > REQ_OP_DISCARD)
		return 0;
	issued.issued_ns = bpf_ktime_get_ns();
	issued.device = device_of(request);
	before = bpf_map_lookup_elem(MAP(block_io_under_way), &address);
	if (before && before->device == issued.device && before->operation == issued.operation) {
		before->issued_ns = issued.issued_ns;
		return 0;
	}
	if (before) {
		key.device = before->device;
		if (block_io_slots(&to, &key))
			ADD_OF(&to, before->operation, requests);
	}
	key.device = issued.device;
	if (!block_io_slots(&to, &key))
		return 0;
	if (bpf_map_update_elem(MAP(block_io_under_way), &address, &issued, BPF_ANY)) {
		ADD(&to, unfollowed, 1);
		return 0;
	}
	ADD_OF(&to, issued.operation, issued);
	return 0;
}

#define COMPLETED(to, op)                                                            \
	do {                                                                         \
		if (error)                                                           \
			ADD(to, op##_errors, complete);                              \
		else                                                                 \
			ADD(to, op##_bytes, bytes);                                  \
		if (complete) {                                                      \
			ADD(to, op##_requests, 1);                                   \
			ADD(to, op##_ns, took_ns);                                   \
			ADD_SLOT(to, op##_latency, slot);                            \
		}                                                                    \
	} while (0)

/* A request may be complete in parts, and is when this one is all that is left. One that was not issued is not a disk's:
 * a flush with nothing to write, or the end of a write for which the disk was flushed. */
static __always_inline int on_complete(void *request, int error, __u32 bytes)
{
	struct block_io_key key = {};
	__u64 address = (__u64)request, took_ns;
	struct block_io_request *issued;
	struct block_io_slots to;
	__u32 left = 0, operation, slot;
	bool complete;

	issued = bpf_map_lookup_elem(MAP(block_io_under_way), &address);
	if (!issued)
		return 0;
	LOAD(true, left, request, struct request, __data_len);
	complete = bytes >= left;
	took_ns = bpf_ktime_get_ns() - issued->issued_ns;
	operation = issued->operation;
	key.device = issued->device;
	if (complete)
		bpf_map_delete_elem(MAP(block_io_under_way), &address);
	if (!block_io_slots(&to, &key))
		return 0;
	slot = log2_slot(took_ns, UNIT_NS, SLOTS);
	if (operation == REQ_OP_READ)
		COMPLETED(&to, read);
	else if (operation == REQ_OP_WRITE)
		COMPLETED(&to, write);
	else if (operation == REQ_OP_FLUSH)
		COMPLETED(&to, flush);
	else
		COMPLETED(&to, discard);
	return 0;
}

/* Linux a54895fa057c ("block: remove the request_queue to argument request based tracepoints") (in v5.11,
 * and in Debian's 5.10): TP_PROTO(struct request_queue *q, struct request *rq) became TP_PROTO(struct request *rq). */
static __always_inline int on_block_rq_issue(__u64 *ctx)
{
	return on_issue((void *)ctx[0]);
}

static __always_inline int on_block_rq_issue_of_queue(__u64 *ctx)
{
	return on_issue((void *)ctx[1]);
}

/* TP_PROTO(struct request *rq, int or blk_status_t error, unsigned int nr_bytes) */
static __always_inline int on_block_rq_complete(__u64 *ctx)
{
	return on_complete((void *)ctx[0], ctx[1], ctx[2]);
}

/* In whatever context a disk's queue runs, softirqs too: there the raw tracepoints miss least (see loaders.bpf.h). */
TRACEPOINT_OF(request_issue, block_rq_issue, 2, on_block_rq_issue_of_queue)
TRACEPOINT_OF(request_issue, block_rq_issue, 1, on_block_rq_issue)
TRACEPOINT_IN_SOFTIRQ(request_complete, block_rq_complete, on_block_rq_complete)

LICENSE("GPL");
