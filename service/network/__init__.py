"""This node's kernel networking: links, routes, rules, hooks of devices, nftables, conntrack, sysctls and ARP.

It decides little: what shall be so is told by `datapath` and `agent`, and what is so is read here and changed where it
differs, so that a repeated call repairs what others have undone. Four things are decided here: which device a pod is
behind (`pod_device`), which hook of a device our programs get (`hook`), whether a rule of somebody else uses our mark
bit (`mark_conflict`, `steering_device`), and whether somebody else has a floating IP (`conflict_watch`).

Invariants. Only what is ours is touched: one nftables table, one steering device with its routing table and ip rules,
tcx links under our own pins, tc filters of one handle, and sysctls whose former values are noted before they change. A
floating IP never becomes an interface address. No call blocks the event loop for long: netlink and conntrack work in a
thread each, nft in a process, all with a time limit.

The caller enters what is a context manager before it uses it, and is ready for two errors: TransientError, after which
the same call may succeed later, and OperatorError, which tells the operator what the node lacks.
"""
