// SPDX-License-Identifier: GPL-2.0-only
/* The ladder: at each hook programs that do ever more of what counting a read(2) takes, so that it shows where a cost
 * comes from. Then experiments: the same with one thing done in another way. A program is named STEP__HOOK. */
#include "ebpfmon.bpf.h"

#define SIZE 16384

struct ladder_counters {
	__u64 calls, bytes;
};

/* ---- as the kit does it ---- */

PROCESS_TABLE(ladder, SIZE);

static __always_inline int step_empty(__u64 bytes)
{
	return 0;
}

static __always_inline int count(struct ladder_counters *n, __u64 bytes)
{
	__sync_fetch_and_add(&n->calls, 1);
	__sync_fetch_and_add(&n->bytes, bytes);
	return 0;
}

static __always_inline int step_totals(__u64 bytes)
{
	struct ladder_slots to;

	return ladder_without_row(&to, interval_side(), false) ? count(to.n, bytes) : 0;
}

static __always_inline int step_row(__u64 bytes)
{
	struct ladder_slots to;

	return ladder_slots(&to) ? count(to.n, bytes) : 0;
}

static __always_inline int step_gathered(__u64 bytes)
{
	struct ladder_slots to;

	return ladder_slots_in_task(&to) ? count(to.n, bytes) : 0;
}

#include "experiments.bpf.h"

/* ---- hooks ---- */

#if defined(__TARGET_ARCH_x86)
#define NR_READ 0
#else
#define NR_READ 63
#endif

static __always_inline bool is_read(void *regs)
{
	return REGISTER((struct pt_regs *)regs, SYSCALL_NR) == NR_READ;
}

struct classic_sys_exit { __u64 common; long id; long ret; };
struct classic_sys_exit_read { __u64 common; int nr; long ret; };

#define KIT_STEPS(DO) DO(totals) DO(row) DO(gathered)
#define EVERY_STEP(DO)                                                                                  \
	KIT_STEPS(DO) DO(row_and_totals) DO(named_map) DO(short_key) DO(task_storage) DO(last_row)      \
	DO(gathered_plain) DO(gathered_side_in_map) DO(gathered_and_totals)

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
KIT_STEPS(DO_CLASSIC)

AT(empty, one_call, "tp/syscalls/sys_exit_read", true, 0)
#define DO_ONE_CALL(step)                                                                               \
	AT(step, one_call, "tp/syscalls/sys_exit_read", true, ((struct classic_sys_exit_read *)ctx)->ret)
KIT_STEPS(DO_ONE_CALL)

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
#define DO_KRETPROBE(step) AT_PROBE(step, kretprobe, "kretprobe/vfs_read", KPROBE_RESULT(ctx))
KIT_STEPS(DO_KRETPROBE)

LICENSE("GPL");
