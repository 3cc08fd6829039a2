"""The groupings, one module each. A module defines `GROUPING` (see `ebpfmon.grouping.registry`)."""
