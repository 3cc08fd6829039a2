"""The sinks that come with ebpfmon. They are registered like third-party sinks.

ebpfmon's core knows none of them, except that `ebpfmon.config` uses `log` as the default sink.
"""
