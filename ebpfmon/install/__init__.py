"""`ebpfmon install`: units, settings and relays."""
