"""Benchmarks of what ebpfmon costs. Run them all with `make bench`, or one with `python -m benchmarks NAME --quick`."""
