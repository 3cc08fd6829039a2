/* SPDX-License-Identifier: GPL-2.0-only */
/* One source for two loaders: libbpf, which loads the compiled object, and BCC, which compiles the source on a machine
 * whose kernel has no BTF.
 *
 * Programs are written for libbpf, in its usual style: SEC(), BPF_PROG(), BPF_KPROBE(), BPF_KRETPROBE(),
 * BPF_CORE_READ(), PT_REGS_*(), maps in SEC(".maps"), settings as `const volatile`. Everything that BCC needs instead
 * is defined in this header. BCC's rewriter cannot handle these macros, so it gets preprocessed source. `strip_for_bcc`
 * in ebpfmon/kernel/compiler.py removes what BCC cannot use when the object is built: definitions of maps and settings,
 * and programs at trampolines and classic tracepoints.
 *
 * This header adds to libbpf's macros:
 * - READ_FIELD(ptr, field, typed): read a field in kernel memory. `typed` is a constant that says whether the verifier
 *   knows the type of `ptr`. It does for the arguments of fentry, fexit and tp_btf programs, and for pointers read
 *   through them. The field is then loaded directly, which costs less and is allowed under lockdown=confidentiality.
 *   Otherwise it is read through a helper, as by BPF_CORE_READ().
 * - READ_STRING(dst, ptr, field): read a string through a helper.
 * - this_task() and CURRENT_IS_TYPED: the current task, and whether the verifier knows its type.
 * - SUBPROGRAM: begins the definition of a function that is called, not inlined, so its stack frame is free again when
 *   it returns. All frames that are in use at the same time share 512 bytes, and each is rounded up to 32. BCC inlines
 *   every function.
 * - UNTRUSTED(ptr): the same pointer, for reading fields that are not passed to kernel functions as trusted pointers.
 *   The verifier then needs less time to load the program. */
#ifndef EBPFMON_LOADERS_BPF_H
#define EBPFMON_LOADERS_BPF_H

#include "kernel_types.h"

#ifdef BCC

#if defined(__TARGET_ARCH_x86)
#define PT_REGS_PARM1(regs) ((regs)->di)
#define PT_REGS_PARM2(regs) ((regs)->si)
#define PT_REGS_PARM3(regs) ((regs)->dx)
#define PT_REGS_PARM4(regs) ((regs)->cx)
#define PT_REGS_PARM5(regs) ((regs)->r8)
#define PT_REGS_RC(regs) ((regs)->ax)
#else
#define PT_REGS_PARM1(regs) ((regs)->regs[0])
#define PT_REGS_PARM2(regs) ((regs)->regs[1])
#define PT_REGS_PARM3(regs) ((regs)->regs[2])
#define PT_REGS_PARM4(regs) ((regs)->regs[3])
#define PT_REGS_PARM5(regs) ((regs)->regs[4])
#define PT_REGS_RC(regs) ((regs)->regs[0])
#endif

/* These work like those in libbpf's bpf_tracing.h, but do not begin with a declaration of the program, because BCC
 * would take that for the program. Therefore `int BPF_PROG(f)` begins with `int static __always_inline ____f`, which is
 * valid C. */
#define BPF_PROG(name, args...) WRAPPED_(unsigned long long, name, CTX_ARGS_, ##args)
#define BPF_KPROBE(name, args...) WRAPPED_(struct pt_regs, name, KPROBE_ARGS_, ##args)
#define BPF_KRETPROBE(name, args...) WRAPPED_(struct pt_regs, name, KRETPROBE_ARGS_, ##args)
#define WRAPPED_(type, name, pass, args...)                                          \
	static __always_inline ____##name(type *ctx, ##args);                        \
	int name(type *ctx) { return ____##name(APPLY_(pass, COUNT_(args))(args)); } \
	static __always_inline int ____##name(type *ctx, ##args)
#define COUNT_(args...) NTH_(_, ##args, 6, 5, 4, 3, 2, 1, 0)
#define NTH_(_0, _1, _2, _3, _4, _5, _6, n, ...) n
#define APPLY_(function, n) PASTE_(function, n)
#define PASTE_(a, b) a##b
#define CTX_ARGS_0() ctx
#define CTX_ARGS_1(x) ctx, (void *)ctx[0]
#define CTX_ARGS_2(x, args...) CTX_ARGS_1(args), (void *)ctx[1]
#define CTX_ARGS_3(x, args...) CTX_ARGS_2(args), (void *)ctx[2]
#define CTX_ARGS_4(x, args...) CTX_ARGS_3(args), (void *)ctx[3]
#define CTX_ARGS_5(x, args...) CTX_ARGS_4(args), (void *)ctx[4]
#define CTX_ARGS_6(x, args...) CTX_ARGS_5(args), (void *)ctx[5]
#define KPROBE_ARGS_0() ctx
#define KPROBE_ARGS_1(x) ctx, (void *)PT_REGS_PARM1(ctx)
#define KPROBE_ARGS_2(x, args...) KPROBE_ARGS_1(args), (void *)PT_REGS_PARM2(ctx)
#define KPROBE_ARGS_3(x, args...) KPROBE_ARGS_2(args), (void *)PT_REGS_PARM3(ctx)
#define KPROBE_ARGS_4(x, args...) KPROBE_ARGS_3(args), (void *)PT_REGS_PARM4(ctx)
#define KPROBE_ARGS_5(x, args...) KPROBE_ARGS_4(args), (void *)PT_REGS_PARM5(ctx)
#define KRETPROBE_ARGS_0() ctx
#define KRETPROBE_ARGS_1(x) ctx, (void *)PT_REGS_RC(ctx)

/* Uses offsetof, because BCC has been seen to compute other offsets for &p->field than clang does. */
#define READ_FIELD(ptr, field, typed)                                                \
	({                                                                           \
		__typeof__(((__typeof__(ptr))0)->field) value_;                      \
		bpf_probe_read_kernel(&value_, sizeof(value_),                       \
			(void *)(ptr) + __builtin_offsetof(__typeof__(*(ptr)), field)); \
		value_;                                                              \
	})
#define READ_STRING(dst, ptr, field)                                                 \
	bpf_probe_read_kernel_str(dst, sizeof(dst),                                  \
		(void *)(ptr) + __builtin_offsetof(__typeof__(*(ptr)), field))
#define BPF_CORE_READ(ptr, fields...) APPLY_(READ_, COUNT_(fields))(ptr, ##fields)
#define READ_1(ptr, a) READ_FIELD(ptr, a, false)
#define READ_2(ptr, a, b) READ_1(READ_1(ptr, a), b)
#define READ_3(ptr, a, b, c) READ_1(READ_2(ptr, a, b), c)
#define READ_4(ptr, a, b, c, d) READ_1(READ_3(ptr, a, b, c), d)
#define bpf_core_field_exists(type, field) true
#define bpf_core_field_offset(type, field) __builtin_offsetof(type, field)
#define UNTRUSTED(ptr) (ptr)
#define SUBPROGRAM static __always_inline
#define CURRENT_IS_TYPED false

static __always_inline struct task_struct *this_task(void)
{
	return (struct task_struct *)bpf_get_current_task();
}

#else

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define READ_FIELD(ptr, field, typed)                                                \
	({                                                                           \
		__typeof__(ptr) ptr_ = (ptr);                                        \
		__typeof__(ptr_->field) value_;                                      \
		if (typed)                                                           \
			value_ = ptr_->field;                                        \
		else                                                                 \
			bpf_core_read(&value_, sizeof(value_), &ptr_->field);        \
		value_;                                                              \
	})
#define READ_STRING(dst, ptr, field) bpf_core_read_str(dst, sizeof(dst), &(ptr)->field)

/* For each load through a trusted pointer, the verifier searches all names in the kernel's BTF, which takes most of the
 * time of loading programs. Linux a35b9af4ec2c ("bpf: Add a kfunc for generic type cast") (in v6.2)
 *
 * The loader replaces the call by one of bpf_rdonly_cast(), or by `r0 = r1` if the kernel lacks it. libbpf could do so for
 * a weak extern function, but to see that the kernel lacks it, libbpf 1.1 needs CAP_SYS_ADMIN. */
#define RDONLY_CAST_ 0x7eb9f001	/* the loader searches for this */
const volatile __u32 cfg_may_cast = 0;	/* the kernel has bpf_rdonly_cast() */
#define UNTRUSTED(ptr) ((__typeof__(ptr))rdonly_cast(ptr, bpf_core_type_id_kernel(__typeof__(*(ptr)))))

static __always_inline void *rdonly_cast(const void *ptr, __u64 type)
{
	register const void *from asm("r1") = ptr;
	register __u64 to asm("r2") = type;
	register void *result asm("r0");

	asm("call %[cast]" : "=r"(result), "+r"(from), "+r"(to) : [cast] "i"(RDONLY_CAST_) : "r3", "r4", "r5");
	return result;
}

#define SUBPROGRAM static __noinline

/* Linux 3ca1032ab7ab ("bpf: Introduce bpf_get_current_task_btf()") (in v5.11) */
#define CURRENT_IS_TYPED                                                             \
	bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)

/* Like bpf_get_current_task_btf(), but the compiler may assume that the result never changes within a program. */
static __always_inline struct task_struct *this_task_btf(void)
{
	register struct task_struct *task asm("r0");

	asm("call %[helper]" : "=r"(task) : [helper] "i"(BPF_FUNC_get_current_task_btf) : "r1", "r2", "r3", "r4", "r5");
	return task;
}

static __always_inline struct task_struct *this_task(void)
{
	return CURRENT_IS_TYPED ? this_task_btf() : (void *)bpf_get_current_task();
}

#endif

#endif
