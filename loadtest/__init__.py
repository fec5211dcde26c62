"""Measures what the gateway costs and how long a failover takes, in labs of its own on this machine.

`failover` kills holders and measures the gap a client feels, `datapath` measures packets beside plain routing and nft
maps (`peer`), `driving` what an agent's turn costs (`driven_agent`), `audit` the way of a record to Kafka (`broker`).
`gateway` is the lab under test, `station` and `traffic` the two ends of a measurement, `outage` and `statistics` what
numbers are made of (no I/O), `report` how they are told.

What is compared is measured in the same run, interleaved, and ratios are taken within a round: whoever else uses the
machine disturbs all alike. A run that saw a wrong source, or a promise broken, fails; it never just reports numbers.

The caller is root, on Linux, with a name for the labs that nobody else needs: labs of that name are replaced, and
cleared at the end, whatever happens (unless told to keep one). The host's network is not touched. `audit` and
`driving` need no root and no lab.
"""
