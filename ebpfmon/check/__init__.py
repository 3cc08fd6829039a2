"""`ebpfmon check`: what this kernel allows."""
