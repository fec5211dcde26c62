"""A small site in network namespaces on one machine: real agents and controllers, real eBPF, real ARP.

`plan` decides names and addresses (no I/O), `site` builds namespaces and links, `process` starts and ends programs,
`lab` puts them together, `fault` breaks them. `outside`, `client` and `witness` say who was seen to call, `traffic`
what was on the wire. `demo` shows the main job with its proofs, `demonstration` is the frame of every demo; `cluster`
is the same site with Kubernetes in it.

Invariants. The host's own interfaces are never touched: every link is made inside the lab's namespaces. Whatever is
changed is written down before (`state`), carries the lab's mark or has its name, so that `lab_down` finds it again,
however far the building came and whoever was killed meanwhile. One at a time builds, breaks or clears a lab of a name.

The caller is root, on Linux, and ends what it has raised with `lab_down` of the same name; `Lab` itself holds nothing.
"""
