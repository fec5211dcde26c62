"""The objects of the demo, as a user would write them."""

GATEWAY_FILE = "gateway.yaml"
POLICY_FILE = "policy.yaml"
FLOATING_IPS = ("192.168.1.100", "192.168.1.101", "192.168.1.102")
EXPECTED_HOLDERS = dict(zip(FLOATING_IPS, ("worker1", "worker2", "worker1"), strict=True))
"""As DESIGN section 6 places them on a lab of three nodes."""
EGRESS_SOURCE_IP = FLOATING_IPS[0]
POLICY_NAME = "egress"
MATCHING_DESTINATION, OTHER_DESTINATION, SECOND_UPLINK_DESTINATION = "8.8.8.8", "9.9.9.9", "8.8.4.4"

GATEWAY = """\
apiVersion: networking.gke.io/v1alpha1
kind: AnthosNetworkGateway
metadata:
  namespace: kube-system
  name: default
spec:
  floatingIPs:
  - 192.168.1.100
  - 192.168.1.101
  - 192.168.1.102
"""

POLICY = """\
apiVersion: networking.gke.io/v1alpha1
kind: EgressNATPolicy
metadata:
  name: egress
spec:
  egress:
  - namespaceSelector:
      matchLabels:
        user: alice
    podSelector:
      matchLabels:
        role: frontend
  - namespaceSelector:
      matchLabels:
        user: paul
    podSelector:
      matchLabels:
        role: frontend
  destinationCIDRs:
  - 8.8.8.0/24
  egressSourceIP: 192.168.1.100
"""
