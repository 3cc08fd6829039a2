"""`ebpfmon top`: show what processes or groups are doing, on a terminal or as JSON."""
