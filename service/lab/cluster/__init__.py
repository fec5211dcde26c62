"""The lab's site as a real cluster: API server, kubelets, containerd and kube-proxy in the namespaces of the nodes.

`assets` says where the programs are, `image` what images the nodes know, `runtime` and `control_plane` have settings
and command lines, `machine` makes a machine of a namespace, `build` puts them together, `cluster` is what is up,
`installation` puts the service into it as a user would, and `fault` breaks it.

Invariants: what a node keeps in /run, /var and bpffs is its own, and seen outside only in the lab's folder; every
process of a node, containers too, is in one tree of cgroups, so a node dies or freezes as a whole. `lab_down` of the
lab's name clears all of it, however far the building came; only unpacked images stay, in the cache.

The caller has `missing_for_cluster` say first whether this machine can do it, and waits (`Cluster.wait...`) for what
Kubernetes does in its own time.
"""
