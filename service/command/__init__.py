"""The command `egressgw`: it starts the processes, and asks them, the logs and the API server on an operator's behalf.

`cli` has the processes and the short commands, `audit` reads logs, `electors` shows and resets the electorate,
`orders` drains and moves, and `following` says how that goes.

- Exit status: 0 good, 1 the answer is bad or somebody did not answer, 2 wrong use or configuration.
- Our own errors are one line on standard error. A traceback means a bug of ours.
- What is not needed is not imported: `--help` and `status` load neither the datapath nor the clients of Kafka and
  Kubernetes. So imports stand in functions here.
"""
