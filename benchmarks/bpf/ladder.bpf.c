// SPDX-License-Identifier: GPL-2.0-only
/* The ladder: programs that do more and more parts of counting a read(2), at each hook. The differences show where the
 * cost comes from. Experiments are variants with one thing done differently. A program is named STEP__HOOK. */
#include "ebpfmon.bpf.h"

#define SIZE 16384

struct ladder_counters {
	__u64 calls, bytes;
};

/* ---- steps that use the BPF headers like a probe ---- */

#define TABLE ladder
#define TABLE_SIZE SIZE
#include "process_table.bpf.h"

static __always_inline int step_empty(__u64 bytes)
{
	return 0;
}

static __always_inline int count_read(struct ladder_counters *counters, __u64 bytes)
{
	if (!counters)
		return 0;
	count(&counters->calls, 1);
	count(&counters->bytes, bytes);
	return 0;
}

static __always_inline int step_totals(__u64 bytes)
{
	return count_read(ladder_without_row(current_buffer(), false), bytes);
}

static __always_inline int step_row(__u64 bytes)
{
	return count_read(ladder_find(), bytes);
}

static __always_inline int step_cached(__u64 bytes)
{
	return count_read(ladder_find_cached(), bytes);
}

#include "experiments.bpf.h"

/* ---- hooks ---- */

#if defined(__TARGET_ARCH_x86)
#define NR_READ 0
#else
#define NR_READ 63
#endif

static __always_inline bool is_read(struct pt_regs *regs)
{
	return SYSCALL_NR(regs) == NR_READ;
}

struct classic_sys_exit { __u64 common; long id; long ret; };
struct classic_sys_exit_read { __u64 common; int nr; long ret; };

#define HEADER_STEPS(DO) DO(totals) DO(row) DO(cached)
#define EVERY_STEP(DO)                                                                                  \
	HEADER_STEPS(DO) DO(row_and_totals) DO(named_map) DO(short_key) DO(task_storage) DO(last_row)      \
	DO(cached_plain) DO(cached_buffer_in_map) DO(cached_and_totals)

#define AT(step, hook, section, condition, bytes)                                                       \
	SEC(section) int step##__##hook(__u64 *ctx)                                                     \
	{                                                                                               \
		return (condition) ? step_##step(bytes) : 0;                                            \
	}

AT(empty, tp_btf, "tp_btf/sys_exit", true, 0)
#define DO_TP_BTF(step) AT(step, tp_btf, "tp_btf/sys_exit", is_read((void *)ctx[0]), ctx[1])
EVERY_STEP(DO_TP_BTF)

AT(empty, classic, "tp/raw_syscalls/sys_exit", true, 0)
#define DO_CLASSIC(step)                                                                                \
	AT(step, classic, "tp/raw_syscalls/sys_exit", ((struct classic_sys_exit *)ctx)->id == NR_READ,  \
	   ((struct classic_sys_exit *)ctx)->ret)
HEADER_STEPS(DO_CLASSIC)

AT(empty, one_call, "tp/syscalls/sys_exit_read", true, 0)
#define DO_ONE_CALL(step)                                                                               \
	AT(step, one_call, "tp/syscalls/sys_exit_read", true, ((struct classic_sys_exit_read *)ctx)->ret)
HEADER_STEPS(DO_ONE_CALL)

AT(empty, fexit, "fexit/vfs_read", true, 0)
#define DO_FEXIT(step) AT(step, fexit, "fexit/vfs_read", true, ctx[4])
EVERY_STEP(DO_FEXIT)

AT(empty, fentry, "fentry/vfs_read", true, 0)

#define AT_PROBE(step, hook, section, bytes)                                                            \
	SEC(section) int step##__##hook(struct pt_regs *ctx)                                            \
	{                                                                                               \
		return step_##step(bytes);                                                              \
	}
AT_PROBE(empty, kprobe, "kprobe/vfs_read", 0)
AT_PROBE(empty, kretprobe, "kretprobe/vfs_read", 0)
#define DO_KRETPROBE(step) AT_PROBE(step, kretprobe, "kretprobe/vfs_read", PT_REGS_RC(ctx))
HEADER_STEPS(DO_KRETPROBE)

char LICENSE[] SEC("license") = "GPL";
