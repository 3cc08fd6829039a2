"""`ebpfmon top`: what processes or applications do this second, on a terminal or as JSON."""
