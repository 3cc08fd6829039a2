"""What ebpfmon costs, measured: `make bench`."""
