"""What happened to every floating IP, on record exactly once after de-duplication, in order per address.

The way of a record: a `recorder` says what counts as an event, `chain` makes the record and `cloud_event` its bytes;
`outbox` puts them on the local disk through `journal` and `segment`; `feed` and `publisher` take them to Kafka.
Back from either come `consumer`, then `timeline` (who held it) and `verification` (what the logs prove). docs/audit.md
tells the whole.

- Nobody in the failover path waits for a disk or a broker: `Outbox.append` queues and returns.
- Nothing is published that a power failure could still take back, and nothing is lost without a record that counts it.
- Order per address is the token's, not that of arrival or of wall clocks.

The caller enters publisher before outbox, so that the last records go along, and keeps both `run()` in a task group.
One outbox folder has one writing process.
"""
