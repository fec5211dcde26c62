"""What a controller tells users: status beside their objects, and Events. Everything here follows from `facts`.

The controller makes a frozen value of what it knows; status (`gateway`, `node`, `objects`), problems and `moves` are
functions of such values and ask nobody. `ledger` says which status is due, `events` which Events are; `writer` alone
waits, for the source that takes them.

What holds at any time: only the leader writes, and only once it knows enough; what cannot be written now is written
later as it is true then; and a status says who holds an address by the word of the electors, never by the table alone.

The caller owes facts of one moment, none while it does not lead, and sightings in any case: a new leader tells of the
moves that nobody else lived to tell of.
"""
