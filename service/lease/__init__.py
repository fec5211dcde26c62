"""Who may hold a floating IP, and who leads: leases granted by a majority of known electors (docs/leases.md).

What it decides. `elector` promises each key to one session at a time. `holder` claims keys, renews what it holds, and
lets go in time. `observer` counts who holds what, as a majority says it. `electorate` and `registrar` say who should be
an elector, one step at a time; `settlement` is how an elector learns what was promised before its epoch; `tiebreaker`
asks, for one of two electors that lost the other, to go on alone. The rest are their parts. Which node *should* hold a
key is not decided here but in service.gateway: an assignment directs a claim, and grants nothing.

Invariants, in true time, whatever is lost, late, stopped, killed or cut off, but for a guest whose own clock its
hypervisor stops (T5):
- For one key the fence of at most one kernel is open.
- The token of a tenure is higher than that of every tenure of the key before it (K1).
- An elector's promise ends when it said it would, or by its holder's own release, and by nothing else (P1).
And for liveness: where a majority votes and one claimant reaches it, the key is held within two leases.

The machines. All are pure, and follow the contract of service.model.machine: `receive`, `advance`, `deadline_ns`,
`drain`. A keeper (service.keeper) runs an elector, a holder and an observer, and a tiebreaker or a registrar; a
controller runs a holder for the key `leader`, an observer and a registrar, and never an elector.

What the caller owes them, each of which the invariants need:
- Outputs are executed one after the other, in their order. `CloseFence` is in the kernel before any `Send` behind it
  leaves (P1); `Persist` is in shared memory before any `Send` behind it leaves (P2).
- Nothing waits for the disk: `Remember` is written beside all else, and `confirm_durable` tells when (K1). Until then
  the elector itself keeps back what must not be heard before.
- The clock is read *after* a datagram was received, and *before* the call that builds one (T1). Outputs are executed
  in the same step: a renewal that is kept back counts from a time at which it had not left.
- Time is CLOCK_BOOTTIME, which the fence compares; the elector takes CLOCK_MONOTONIC_RAW as well (T3). It is asserted
  never to go back, also from one kind of call to another.
- A deadline that `OpenFence` brings is compared by the kernel on every packet. The machine closes a fence that is over
  as soon as it is called; that it is called in time is nobody's promise, and nothing rests on it.
- An electorate is on disk before `adopt` is called with it (M1), and what `Settled` tells before `confirm_settled` is.
- One holder and one elector per node and boot, behind an exclusive lock; the second adopts what the first held, before
  it is told what to claim (S8). The start id is new with every process, the memory number with every disk (M7).
- A datagram's source is authenticated: node name and start id are as the envelope found them, and were sent to this
  process and not to the one before it.
"""
