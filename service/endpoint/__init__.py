"""Which pods of other nodes a gateway serves: announced by their node, acknowledged by the gateway. Pure.

What it decides: what is still to be told to which peer (`announcements`), which row of which life of a peer counts
(`inbox`), and when a peer is gone (`sync`). It says by outputs what to install; it installs nothing.

Invariants: a pod is acknowledged only after the caller has confirmed its rows; a row of an earlier life of its sender
never replaces one of a later life; a location is taken only under a higher fencing token (K1, W2).

Its caller feeds datagrams of authenticated peers with the time, in order; executes the outputs in order; confirms
what it has installed (`EndpointSync.confirm`); and tells which peers there are. To be replaced: docs/decisions/0005.
"""
