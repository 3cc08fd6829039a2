"""What travels through ebpfmon: charts, series, snapshots, probes, sinks. Data only, no I/O."""
