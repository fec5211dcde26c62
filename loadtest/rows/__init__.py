"""The rows of the datapath's table, each measured by itself in labs of its own that are cleared at its end.

A row is a function of (options, report) that gives a `Row`: lines with their goals, and what they were computed from.
It raises TransientError where a server saw a source it must not see, or a step failed.
"""
