"""Programs and maps of one node: what the kernel shall do, and how it comes to do it.

What it decides: what each driven map contains, from what is known (`reconciler`, `desired`); from when on, and until
when, a pod is steered (`steering`, rules G5 and W10). Everything else here carries that out: programs loaded and
attached (`loader`, `node_datapath`), rows written in the background (`worker_pool`), and put back what others removed
(`upkeep`).

Invariants: the deadlines of leases are the keeper's alone, and nothing here writes them; a pin of another shape is
never reused; what is in the kernel outlives the agent, and only `uninstall` takes it away.

Its caller tells the reconciler all it learns (`learn_...`), hands in the clock, runs `WorkerPool.run` and the tasks
of `Upkeep`, and has the pool write what `Reconciler.wish` says after each change: the difference, not everything. The C
side, the walk of a packet and the maps: docs/datapath.md.
"""
