"""The machine and the process as other rooms meet them: clocks, identity, signals, log, memory, priority, files.

Nothing here knows what the project is about. Each function does one thing to the operating system and says what it got:
what is not permitted is answered, not raised (`memory`, `priority`), because a keeper without it is late, not wrong.

The caller owes: the time, handed in to whatever is pure; a worker thread for `durable_file`, which waits for the disk;
and `run_until_signalled` as the one place where a loop begins, so that a stop is one cancellation and one cleanup.
"""
