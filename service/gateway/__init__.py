"""Which node shall hold which floating IP, and what nodes tell each other about it. Pure.

What it decides, for the leader: holder and successor of each floating IP (`assignment`), which addresses cannot be
floating IPs at all (`validation`), which moves make the load even (`rebalance`), and what the cluster's own objects
say of nodes and address ranges (`inventory`). For the holder: when to send gratuitous ARP (`announcement`). For
everybody: the bytes in which all this travels (`row`, operators' orders in `order`). None of it grants anything. An
assignment tells a node to ask the electors for a lease; only the lease lets it hold.

Invariants:

- An assignment is sticky: the same facts with its own result as the last table change nothing, stamps included.
- A live lease is never assigned away because its node looks down: membership chooses among candidates, it does not
  revoke (leases.md, S2). On purpose it is, once its heir has had notice, and never to nobody (O1).
- An address that is a node's own, a network or a broadcast address is never assigned.
- A floating IP that is not held is not announced, from the moment the lease is lost.

The caller owes `assign` a (term, version) above any it gave before, the holders as the leases are, not as the table
wishes them, and all nodes it knows, down ones included. It owes `AnnouncementSchedule` time that never goes backwards,
and `stop` before anything else is done about a lost lease.
"""
