"""Tells every other agent where a floating IP is, directly and until each has heard it (rule W2). Pure.

What it decides: whom to tell again, and when to stop. Invariants: a word is told to a peer until that peer has
acknowledged it, a newer word of the same address takes its place, or the peer is none any more; what is heard is handed
on as often as it is said, since whoever takes it goes by tokens. What its caller owes: `set_peer` for who is there,
`locate` for each address that has come to this node, and time that does not go back.

It is one of three ways in which a location is learned, and the quickest that is authenticated: the others are
gratuitous ARP and gossip (docs/datapath.md, W2).
"""
