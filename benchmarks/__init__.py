"""What ebpfmon costs, measured: `make bench`. Each benchmark can be run alone: `python -m benchmarks NAME --quick`."""
