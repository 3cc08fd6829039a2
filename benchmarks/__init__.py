"""What ebpfmon costs, measured: `make bench`. Each piece can be run alone: `python -m benchmarks NAME --quick`."""
