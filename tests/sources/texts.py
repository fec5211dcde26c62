"""Manifests as users write them."""

GATEWAY = """\
apiVersion: networking.gke.io/v1alpha1
kind: AnthosNetworkGateway
metadata: {namespace: kube-system, name: default}
spec:
  floatingIPs: [192.168.1.100, 192.168.1.101, 192.168.1.102]
status:
  nodes: {worker1: Up, worker2: Up}
  floatingIPs: {192.168.1.100: worker1, 192.168.1.101: worker2, 192.168.1.102: worker1}
"""
POLICY = """\
apiVersion: networking.gke.io/v1alpha1
kind: EgressNATPolicy
metadata: {name: egress}
spec:
  egress:
  - namespaceSelector: {matchLabels: {user: alice}}
    podSelector: {matchLabels: {role: frontend}}
  - namespaceSelector: {matchLabels: {user: paul}}
    podSelector: {matchLabels: {role: frontend}}
  destinationCIDRs: [8.8.8.0/24]
  egressSourceIP: 192.168.1.100
"""


def policy_text(name: str, *, ip: str = "192.168.1.100", created: str | None = None) -> str:
    metadata = f"{{name: {name}}}" if created is None else f"{{name: {name}, creationTimestamp: {created}}}"
    return POLICY.replace("{name: egress}", metadata).replace("IP: 192.168.1.100", f"IP: {ip}")


def pod_text(name: str, ip: str = "10.0.0.1", *, node: str = "worker1") -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata: {{namespace: shop, name: {name}, labels: {{role: frontend}}}}
spec: {{nodeName: {node}, containers: [{{name: web, image: web}}]}}
status: {{podIP: {ip}, phase: Running}}
"""


def documents(*texts: str) -> str:
    return "---\n".join(texts)
