"""The lease keeper of a node: a process of its own that is elector and holder, and writes the kernel's fence.

`keeper` wires: what is opened, in which order, which task does what. What is decided stands beside it:

- `claims`: what is adopted at the start (S8), claimed, kept and given up; `duty` says what the agent's heartbeats allow
  (S3, S5, S6), `agent_watch` lets them and their absence count.
- `fenced_leases`: the fence first, then the first announcement (S4) and the report; `fence` is the map itself.
- `vote`: the elector on two clocks (T3), and the hand that writes its records (P2, K1, M1); `promise_file` and
  `electorate_file` are those records.
- `transition`: when a newer electorate is entered; `proposal` what a configured one is proposed by (M2),
  `other_elector` when one of two asks to go on alone, `majority` whether a majority votes.
- `dispatch` which machine a datagram is for; `report` what the agent is told; `farewell` what a clean stop does.

Invariants: nothing is read before the lock of the promise file is held (S8). A fence is closed before anything leaves
the machine that lets another open its own (P1), and a promise is written before it is said (P2). Nothing here waits for
the agent or for a disk, except an answer that must not be given before it is durable.

The caller owes: settings whose electorate is named or `auto`; that `serve` is cancelled once and the exit stack then
left, for that is when leases are handed over or prolonged; and CLOCK_BOOTTIME wherever a clock is handed in, since the
kernel compares the deadlines with it.
"""
