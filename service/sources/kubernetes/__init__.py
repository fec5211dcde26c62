"""An API server as a source: list and watch, server-side apply, Events, on raw requests.

The way of an object: `reflector` follows one resource and tells differences, `ledger` makes changes of them, `source`
queues them. What is written takes the other way: `status`, `events` and `mirror` ask the ledger what is there.

- Nobody waits for the API server: it may be away for hours. What was told stays; an agent that starts meanwhile goes on
  from `object_cache`.
- A status carries its leader's term, and the API server itself refuses one of a lower term.
- kubernetes_asyncio is used for credentials and transport, in `api_server` only; the models are our own.

The caller keeps `run()` in a task group beside `changes()`, and calls what writes only while it leads.
"""
