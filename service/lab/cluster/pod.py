"""Real pods, described as those of a lab without Kubernetes are, so that the same witnesses serve for both."""

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from service.lab.plan import PlannedPod, pod_mac


def find_pod(document: dict[str, Any], processes: Callable[[str, str], list[int]]) -> PlannedPod | None:
    """The pod of this object, once it has an address and a process; `processes` tells the pids of (node, uid).

    Its network namespace is named by a process in it, so it is good for as long as that pod's sandbox lives.
    """
    metadata, spec, status = document["metadata"], document["spec"], document.get("status", {})
    node, address = spec.get("nodeName", ""), status.get("podIP", "")
    if not node or not address or status.get("phase") in ("Succeeded", "Failed"):
        return None
    pids = processes(node, metadata["uid"])
    if not pids:
        return None
    ip = IPv4Address(address)
    return PlannedPod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        role=metadata.get("labels", {}).get("role", ""),
        node=node,
        ip=ip,
        netns=f"/proc/{pids[0]}/ns/net",
        device="",
        on_bridge=not spec.get("hostNetwork", False),
        mac=pod_mac(ip),
    )


def is_ready(document: dict[str, Any]) -> bool:
    """The condition Ready of a pod or a node."""
    conditions = document.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def client_pod(namespace: str, name: str, *, node: str, labels: dict[str, str], image: str) -> dict[str, Any]:
    """A pod that waits for somebody to make calls from it; `service.lab.client` is in it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "client",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sleep", "infinity"],
                    # As a user may have it; pings need the raw socket.
                    "securityContext": {"runAsUser": 0},
                }
            ],
        },
    }


def namespace_object(name: str, labels: dict[str, str]) -> dict[str, Any]:
    """With labels, for the selectors of policies."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
