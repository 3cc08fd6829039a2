"""Between Python and the kernel's BPF: the only package that calls libbpf or bpf(2)."""
