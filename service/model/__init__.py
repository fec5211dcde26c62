"""Frozen values that the parts exchange. No behaviour beyond what follows from the value itself; no I/O, no clock."""
