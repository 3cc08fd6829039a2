"""The groupings, one module each. Each module defines `GROUPING` (see `ebpfmon.grouping.registry`)."""
