"""What was seen on the wire of a lab, and what it proves.

`stream` is a client that measures the longest silence; `capture` records every frame that enters the fabric, as records
that `frame` defines; `leak_check` judges them (no I/O, no clock). All times are CLOCK_BOOTTIME ns, the clock of leases
and audit records: one machine, one clock, so they may be compared.

The caller starts a capture before what it judges, and believes no capture that lost frames or saw none of the traffic
in question: both would pass as proof.
"""
