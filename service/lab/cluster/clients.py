"""The users' namespaces of the example, and on every node one pod of each to make calls from."""

from itertools import product

from service.lab.cluster.cluster import Cluster
from service.lab.cluster.image import PROJECT_IMAGE
from service.lab.cluster.pod import client_pod, namespace_object

USERS = {"alice": "frontend", "carol": "other", "paul": "frontend"}
"""Namespace, which is also its label `user`, and the label `role` of the pods in it."""


def client_name(user: str, node: str) -> str:
    """`namespace/name`, as the pods of a lab without Kubernetes are called too."""
    return f"{user}/{USERS[user]}-{node}"


def create_clients(cluster: Cluster, *, image: str = PROJECT_IMAGE) -> tuple[str, ...]:
    """Make them and wait until they are Ready; return their full names. What is there already stays."""
    cluster.kubectl.apply(*(namespace_object(user, {"user": user}) for user in USERS))
    # The API server refuses pods until the controller manager has made it.
    cluster.wait("service accounts", lambda: all(_has_account(cluster, user) for user in USERS))
    pairs = [(user, node.name) for user, node in product(USERS, cluster.plan.nodes)]
    cluster.kubectl.apply(*(_pod(user, node, image) for user, node in pairs))
    names = tuple(client_name(user, node) for user, node in pairs)
    cluster.wait_pods(*names)
    return names


def _has_account(cluster: Cluster, namespace: str) -> bool:
    return cluster.kubectl.run("-n", namespace, "get", "serviceaccount", "default", check=False).returncode == 0


def _pod(user: str, node: str, image: str) -> dict[str, object]:
    name = client_name(user, node).partition("/")[2]
    return client_pod(user, name, node=node, labels={"user": user, "role": USERS[user]}, image=image)
