"""The stages of a tick. No stage imports another one; only `ebpfmon.pipeline.pipeline` knows them all."""
