"""Which node may use which ports of a floating IP: blocks of 64, leased by the leader (docs/port-blocks.md).

What it decides. `leader` says which node has which block, calls blocks back, and takes them from nodes that are Down.
`owner` says which blocks new flows of its node may use, asks for more and gives back. `gateway` says whose each block
is in its kernel, as holder or successor. The rest are their parts.

Invariants, in true time, whatever is lost, late, doubled, cut off, paused, restarted or rebooted:
- One gateway takes packets of a block from one node.
- Between the last packet of one owner and the first of the next there are the times of Q5, or the first owner's word.
And for liveness: after calm each node with selected pods has its base, or is counted as short.

The machines are pure, and follow the contract of service.model.machine on CLOCK_BOOTTIME. An agent runs an owner and a
gateway on one socket (`message.receiver_of` tells them apart), a controller a leader for each term in which it leads.
What the callers owe them is in the page.
"""
