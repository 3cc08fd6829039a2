/* SPDX-License-Identifier: GPL-2.0-only */
/* One source for two loaders: libbpf, which loads the compiled object, and BCC, which compiles the source on a
 * machine whose kernel has no BTF. What differs between them stands here, and nowhere else.
 *
 * For BCC the source is preprocessed when the object is built (its rewriter stumbles over macros), maps are numbers
 * that the loader puts its descriptors for, and knobs are macros that it defines. */
#ifndef EBPFMON_LOADERS_BPF_H
#define EBPFMON_LOADERS_BPF_H

#include "kernel_types.h"

#ifdef BCC

#define SEC(name)
#define LICENSE(name) /* BCC's own default is the GPL */
#define KNOB(type, name)
#define MAP(name) ((void *)bpf_pseudo_fd(1, MAP_##name))
/* By offsetof, with the type named: for &p->field BCC has been seen to take other offsets than clang does. */
#define READ(dst, ptr, type, field)                                                  \
	bpf_probe_read_kernel(&(dst), sizeof(dst), (void *)(ptr) + __builtin_offsetof(type, field))
#define READ_STRING(dst, ptr, type, field)                                           \
	bpf_probe_read_kernel_str(dst, sizeof(dst), (void *)(ptr) + __builtin_offsetof(type, field))
#define LOAD(typed, dst, ptr, type, field) READ(dst, ptr, type, field)
#define CURRENT_IS_TYPED false
#define CURRENT_TASK() ((void *)bpf_get_current_task())
#define UNTRUSTED(ptr, type) (ptr)
#define HAS_FIELD(type, field) true
#define OFFSET(type, field) __builtin_offsetof(type, field)
#define REGISTER(regs, name)                                                         \
	({ unsigned long value_ = 0; READ(value_, regs, struct pt_regs, name); value_; })

#else

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define LICENSE(name) char ebpfmon_license[] SEC("license") = name
/* A setting that user space writes before the load; what it turns off, the verifier removes. */
#define KNOB(type, name) const volatile type name = 0
#define MAP(name) (&name)
#define READ(dst, ptr, type, field) bpf_core_read(&(dst), sizeof(dst), &((type *)(ptr))->field)
#define READ_STRING(dst, ptr, type, field)                                           \
	bpf_core_read_str(dst, sizeof(dst), &((type *)(ptr))->field)
/* Where the verifier knows what a pointer points to (`typed`, a constant), its fields are loaded without a helper:
 * that is cheaper, and is allowed where a kernel's lockdown forbids bpf_probe_read_kernel(). */
#define LOAD(typed, dst, ptr, type, field)                                           \
	do {                                                                         \
		if (typed)                                                           \
			(dst) = ((type *)(ptr))->field;                              \
		else                                                                 \
			READ(dst, ptr, type, field);                                 \
	} while (0)
/* The same pointer, typed, but one that the verifier does not trust. For each load by way of one that it does trust it
 * searches all the names in the kernel's BTF, which is most of what a load of programs takes. */
extern void *bpf_rdonly_cast(const void *ptr, __u32 type) __ksym __weak;
#define UNTRUSTED(ptr, type)                                                         \
	(cfg_may_cast ? bpf_rdonly_cast(ptr, bpf_core_type_id_kernel(type)) : (void *)(ptr))
/* Linux 3ca1032ab7ab ("bpf: Introduce bpf_get_current_task_btf()") (in v5.11) */
#define CURRENT_IS_TYPED                                                             \
	bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)
#define CURRENT_TASK()                                                               \
	(CURRENT_IS_TYPED ? current_task_btf() : (void *)bpf_get_current_task())
/* bpf_get_current_task_btf(), of which the compiler knows that it is the same all through a program. */
static __always_inline void *current_task_btf(void)
{
	register void *task asm("r0");

	asm("call %[helper]" : "=r"(task) : [helper] "i"(BPF_FUNC_get_current_task_btf) : "r1", "r2", "r3", "r4", "r5");
	return task;
}
#define HAS_FIELD(type, field) bpf_core_field_exists(((type *)0)->field)
#define OFFSET(type, field) bpf_core_field_offset(((type *)0)->field)
#define REGISTER(regs, name) ((regs)->name)

#endif

/* Programs: each line sees EVENT by one strategy at one TARGET and calls HANDLER. In an object,
 * - several targets of an event and strategy are alternatives, taken in the order of the file;
 * - so are the strategies, but that those which miss calls on the running kernel come last;
 * - programs that share event, strategy and target belong together. What follows the target in the name says
 *   more: `entry` and `return` are for that load mode alone, `softirq` is where no task runs (TRACEPOINT_IN_SOFTIRQ),
 *   a number is how many arguments TARGET must have
 *   in this kernel (a fexit finds the result behind them), any other word just tells companions apart: those may
 *   attach to something else than TARGET.
 * A handler gets the result, of a KPROBE and a FENTRY the first argument and whether it is typed (see LOAD), of a
 * tracepoint its context. */
#define KPROBE(event, target, handler)                                               \
	SEC("kprobe/" #target)                                                       \
	int event##__kprobe__##target(struct pt_regs *ctx)                           \
	{                                                                            \
		return handler((void *)KPROBE_ARG1(ctx), false);                            \
	}
/* In `entry` mode a kprobe alone counts as well as a kretprobe, costs less and cannot be missed. */
#define KPROBE_OR_KRETPROBE(event, target, handler)                                  \
	SEC("kprobe/" #target)                                                       \
	int event##__kprobe__##target##__entry(struct pt_regs *ctx)                  \
	{                                                                            \
		return handler(0);                                                   \
	}                                                                            \
	SEC("kretprobe/" #target)                                                    \
	int event##__kprobe__##target##__return(struct pt_regs *ctx)                 \
	{                                                                            \
		return handler(KPROBE_RESULT(ctx));                                  \
	}
#define KRETPROBE(event, target, handler)                                            \
	SEC("kretprobe/" #target)                                                    \
	int event##__kprobe__##target(struct pt_regs *ctx)                           \
	{                                                                            \
		return handler(KPROBE_RESULT(ctx));                                  \
	}
/* Where a return needs arguments: ON_ENTRY gets the registers and keeps what is needed, HANDLER the result. */
#define KPROBE_AND_KRETPROBE(event, target, on_entry, handler)                       \
	SEC("kprobe/" #target)                                                       \
	int event##__kprobe__##target##__args(struct pt_regs *ctx)                   \
	{                                                                            \
		return on_entry(ctx);                                                \
	}                                                                            \
	KRETPROBE(event, target, handler)
#define TRACEPOINT(event, target, handler)                                           \
	SEC("tp_btf/" #target)                                                       \
	int event##__tracepoint__##target(__u64 *ctx)                                \
	{                                                                            \
		return handler(ctx);                                                 \
	}

/* ... where a softirq comes by: there no task is preempted, but kprobes' and classic tracepoints' programs are left out
 * on top of any other of those, and of whoever works on a map. A raw tracepoint's is left out on top of itself alone. */
#define TRACEPOINT_IN_SOFTIRQ(event, target, handler)                                \
	SEC("tp_btf/" #target)                                                       \
	int event##__tracepoint__##target##__softirq(__u64 *ctx)                     \
	{                                                                            \
		return handler(ctx);                                                 \
	}

/* ... where the tracepoint has not the same arguments in every kernel: so many it must have here. BCC, which does without
 * the kernel's BTF, cannot know: it takes the first one that the kernel accepts, which refuses a program that reads more
 * arguments than there are. So those with more arguments come first. */
#define TRACEPOINT_OF(event, target, nargs, handler)                                 \
	SEC("tp_btf/" #target)                                                       \
	int event##__tracepoint__##target##__##nargs##__softirq(__u64 *ctx)          \
	{                                                                            \
		return handler(ctx);                                                 \
	}

/* One program at a busy tracepoint serves several events better than one each. SHARED_TRACEPOINT() is the
 * program; SEEN_AT() makes EVENT one of those that it can see, and is true in the program when it shall. */
#define SHARED_TRACEPOINT(target, handler)                                           \
	SEC("tp_btf/" #target)                                                       \
	int target(__u64 *ctx)                                                       \
	{                                                                            \
		return handler(ctx);                                                 \
	}
#define SEEN_AT(target, event) KNOB(__u8, event##__tracepoint__##target)
#define SEEN_AT_IN_RETURN_MODE(target, event) KNOB(__u8, event##__tracepoint__##target##__return)

/* A kernel that has none of an event's targets has nothing to see there: other events see it all. */
#define IF_ANY(event) KNOB(__u8, event##__if_any)

/* What needs the kernel's BTF, which BCC is there to do without: trampolines, and the classic tracepoints. Those cost
 * more than the raw ones (TRACEPOINT), but the kernel cannot preempt a program there. */
#ifdef BCC
#define FEXIT(event, target, nargs, handler)
#define FEXIT_ARGS(event, target, nargs, handler)
#define FENTRY(event, target, handler)
#define CLASSIC_TRACEPOINT(event, system, target, handler)
#define SHARED_CLASSIC_TRACEPOINT(system, target, handler)
#else
#define FEXIT(event, target, nargs, handler)                                         \
	SEC("fexit/" #target)                                                        \
	int event##__trampoline__##target##__##nargs(__u64 *ctx)                     \
	{                                                                            \
		return handler(ctx[nargs]);                                          \
	}
/* The handler gets the arguments, an array of __u64, and then the result. */
#define FEXIT_ARGS(event, target, nargs, handler)                                    \
	SEC("fexit/" #target)                                                        \
	int event##__trampoline__##target##__##nargs(__u64 *ctx)                     \
	{                                                                            \
		return handler(ctx, ctx[nargs]);                                     \
	}
#define FENTRY(event, target, handler)                                               \
	SEC("fentry/" #target)                                                       \
	int event##__trampoline__##target(__u64 *ctx)                                \
	{                                                                            \
		return handler((void *)ctx[0], true);                                     \
	}
#define CLASSIC_TRACEPOINT(event, system, target, handler)                           \
	SEC("tp/" #system "/" #target)                                               \
	int event##__tracepoint__##system##_##target(void *ctx)                      \
	{                                                                            \
		return handler(ctx);                                                 \
	}
#define SHARED_CLASSIC_TRACEPOINT(system, target, handler)                           \
	SEC("tp/" #system "/" #target)                                               \
	int system##_##target(void *ctx)                                             \
	{                                                                            \
		return handler(ctx);                                                 \
	}
#endif

#endif
