"""Hypothesis without a limit for each example: the machine may be busy, and pytest has a limit for each test."""

from hypothesis import settings

settings.register_profile("ebpfmon", deadline=None)
settings.load_profile("ebpfmon")
