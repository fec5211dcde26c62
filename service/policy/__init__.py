"""Selection: which pods a policy sends to which destinations from which floating IP. Pure and incremental.

What it decides: which policies are in force (`acceptance`), which pods each of them matches (`selector`, found by two
inverted indexes, `pod_table` and `term_index`), and what follows for each pod (`rule_set`). `index` keeps all of it up
to date and says what a batch of changes has changed. What it does not decide: who holds a floating IP, and whether a
packet may pass. A selected pod's packet leaves with its floating IP or not at all, and that is the datapath's affair.

Invariants:

- After every batch the result is what a computation from scratch over the same objects would give, whatever their
  order; but of pods that claim one address of one node, the last to bring it counts.
- A change costs work in proportion to what it changes, not to the number of pods or policies.
- A refused policy selects nothing. A policy whose floating IP no gateway lists is in force all the same, and its
  packets are dropped: refusing it would let them leave from another address.
- Rule sets and policies are named by content alike in every process, so that two nodes never mean different things by
  one name.
- No set is iterated: equal batches give equal deltas, in equal order.

The caller owes the index every object of its source, in order, in batches as they come, and lets nothing out before the
source has delivered everything once: until then absence means nothing. It hands the deltas on in order; one that is
dropped is not told again.
"""
