"""How members and processes talk: sealed datagrams between nodes, plain ones between agent and keeper of one node.

From below: `replay_window` and `envelope` make a datagram authentic, fresh and secret, under keys that `keyring`
reads again and again; `sealed_socket` is a UDP socket of such datagrams, `refusals` what it tells of those that were
none; `local_socket` is a unix socket whose file permissions stand in for a seal, `pieces` what it says at length;
`agent_link` and `keeper_link` are its two ends. `pump` drives a pure machine from datagrams and time. `decoded` keeps
what was decoded; `cluster_view` puts gossip together: machine, socket and pump, and what the tables mean;
`order_board` has operators' orders in it.

An *envelope* is the sealed datagram, and nothing else.

What holds throughout: a datagram may be lost, repeated, late or forged, and none of this waits, retries or raises for
the network. What matters is said again by the machines above. Whatever a peer sends is counted and dropped where it is
malformed (PeerError), and changes nothing. Buffers and tables are bounded. Everything runs on one event loop; between
an input and the sends that answer it there is no await.

The caller owes every socket to be entered before the first datagram is expected (a constructor opens nothing), one
envelope per (start id, purpose), and a start id drawn anew at each start of a process.
"""
