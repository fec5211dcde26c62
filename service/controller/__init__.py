"""The controller process: it competes for leadership, and the leader places floating IPs and reports.

- `placement`: when the leader may place, which nodes count, and what changes in the table. Pure.
- `leadership` and `holders`: what the electors say, of the lease `leader` and of floating IPs. Pure.
- `knowledge`: all that is known now, as values; `leader` acts on it.
- `elector_client`: the controller's end of the lease protocol; `status`: what it says at /v1/status.
- `controller`: what the process is made of, in which order it opens, and its tasks.

What holds at any time: a controller grants nothing. It directs claims by a table of rows with stamps, and electors and
holders obey the newest stamp, so two that both think they lead do no harm. Nobody needs it to go on, or to fail over
once: the successors stand in the table. It places nothing before it knows enough, since what is placed stays.
"""
