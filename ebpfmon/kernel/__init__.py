"""Load, attach and read BPF programs. No other package calls libbpf or bpf(2)."""
