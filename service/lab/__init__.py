"""A small site in network namespaces on one machine: real agents and controllers, real eBPF, real ARP.

`plan` decides addresses (no I/O), `site` builds namespaces and links, `process` starts and ends programs, `lab` puts
them together, `fault` breaks them. `outside`, `client` and `capture` are the witnesses; `leak_check` judges what they
saw. The host's own interfaces are never touched: every link is made inside the lab's namespaces.
"""
