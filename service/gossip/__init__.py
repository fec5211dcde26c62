"""Gossip: who is probably up, and small tables that every member shall know (SWIM with Lifeguard). Pure.

What it decides: the state of every other member (alive, suspect, dead, left), as this member sees it, and which version
of a member's record or of a table's row supersedes another. What it never decides: who holds a floating IP or leads.
Two halves of a partition each see the other dead, and both are right to say so; only a majority of a known electorate
grants anything (docs/leases.md).

Invariants:

- News about a member is ordered by (incarnation, alive < dead < left), rows by their version. Merging is a maximum, so
  loss, duplication and reordering change when members agree, never on what.
- Only a member raises its own incarnation. Everybody else can at most repeat it, or take away from it.
- Nobody dies unheard: a death begins as somebody's suspicion, and every datagram to the suspect tells it so.
- A datagram is at most `payload_bytes_max`, and every store has a bound; what is refused for a bound is counted.
- Malformed input changes nothing. Equal inputs at equal times with equal randomness give equal outputs.

The caller (`wire.pump`, the simulator) owes the machine:

- time in integer nanoseconds that never goes backwards, and a call of `advance` at `deadline_ns` or soon after:
  lateness is taken for our own ill health;
- a Source that is authenticated: a sender's name is believed;
- outputs executed in their order, and `drain` after every call, from one thread;
- for `leave`, the outputs of that very moment at least, better another 0.5 s of driving; and an incarnation that grows
  from life to life, if it can.

`membership` is the machine; docs/gossip.md has the whole picture, with the numbers.
"""
