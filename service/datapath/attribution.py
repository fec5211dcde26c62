"""Which policy a flow goes by, of its floating IP: the index lets one policy at a time have an address. Pure."""

from collections.abc import Collection, Mapping

Label = tuple[str, bytes]
"""Name of a policy, empty where none has the address, and a packed floating IP."""


class Attribution:
    """As the policies are now."""

    def __init__(
        self, deciding: Mapping[bytes, str], *, policies: Collection[str], floating_ips: Collection[bytes]
    ) -> None:
        """`deciding`: the policy in force of each address that has one. The others: what there is."""
        self.policies = frozenset(policies)
        self._floating_ips = frozenset(floating_ips)
        self._labels = {
            floating_ip: (name, floating_ip)
            for floating_ip, name in deciding.items()
            if floating_ip in self._floating_ips
        }

    def label_of(self, floating_ip: bytes) -> Label:
        """Of a flow, or a drop, of that address."""
        return self._labels.get(floating_ip) or ("", floating_ip)

    def exists(self, label: Label) -> bool:
        """Its floating IP is there, and its policy, if it is of one."""
        return label[1] in self._floating_ips and (not label[0] or label[0] in self.policies)

    def differing(self, other: "Attribution") -> frozenset[bytes]:
        """Addresses that are another policy's there."""
        both = self._labels.keys() | other._labels.keys()
        return frozenset(address for address in both if self.label_of(address) != other.label_of(address))
