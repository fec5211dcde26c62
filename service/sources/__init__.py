"""Where objects come from and where their status goes: an API server (`kubernetes`) or a folder (`manifests`).

Both tell the same typed objects as changes: first everything that exists, ending in `Synced`, then a batch per change.

- A version that is refused changes nothing: the last good one stays in force, and `Errors` says what is wrong.
- In a batch upserts come before deletes, so an update has no gap.
- When the other side falls silent, what was told stays in force; `state()` says so.

The caller takes batches in order and without long pauses, and takes absence for an answer only after `Synced`.
"""
