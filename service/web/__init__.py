"""What a process says of itself over HTTP, and the same document read and printed on an operator's desk.

`server` answers health, readiness, status and metrics, and changes nothing; `document` has the parts of the status
document that agents and controllers share, `metrics` the collectors; `client` fetches the document, `verdict`
says what is wrong by it, and `tables` prints both. `order_socket` takes operators' orders on a unix socket, which
`orders` checks and writes down; `order_client` gives them.

The server is bounded against whoever connects. The process that runs it hands in what is asked for, which must be
ready at once: a status that waits would hold up the event loop, and with it everything else.
"""
