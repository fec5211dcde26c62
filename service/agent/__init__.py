"""The agent of a node: it prepares, announces and records; it never decides that an address may be used.

What it decides: what the keeper is told (`heartbeat`), what a new report of the keeper entails (`holdings`), whom it
tells of its pods and from when on theirs are served (`neighbours`), which difference netfilter gets (`netfilter`),
whether an address may be another host's (`conflicts`). `turn` brings kernel, keeper and peers in step with all that is
known; `agent` wires, opens and runs.

Invariants: everything is level-triggered, so a lost wake-up costs a second and no truth; nothing waits for the keeper,
and the keeper waits for nothing here; what was in the kernel when the agent started goes on until it is told otherwise.

Its caller (`service.command`) hands in settings and cancels; the datapath stays in the kernel.
"""
