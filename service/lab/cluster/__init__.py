"""A real Kubernetes cluster on one machine: API server, and nodes with kubelet and containerd in network namespaces."""
