"""Who the electors are: how each process learns it, and how it is changed (leases.md, Electorate).

What is decided here: which word on the electorate a process takes, and what is written to the one Kubernetes object
that holds it. Who should be an elector, and which step may follow, is decided in service/lease/electorate.py, without
any I/O.

- `book`: what one process knows. Every process that speaks to electors has one; it never goes back (M1).
- `store`: the object, changed by compare-and-swap alone (M2).
- `office`: a controller's part. Any controller makes the object; only the leader changes it.
- `follower`: an agent's part. It reads the object for its keeper, and changes it only where one of two has lost the
  other.
- `reset`: an operator's part, when a majority is lost for good (M6).

The caller owes two things: datagrams of the kind ELECTORATE go to the book, whichever machine's socket they reached;
and what the book adopts goes to every machine that counts electors, before anything else is counted.
"""
