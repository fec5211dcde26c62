"""Frozen values that the parts exchange. No behaviour beyond what follows from the value itself; no I/O, no clock.

Every room may import this one, and this one imports none. Times are integer nanoseconds, with the clock named where it
is not plain.
"""
