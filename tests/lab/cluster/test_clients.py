"""The users of the example and their pods."""

from pathlib import Path

from service.lab.cluster.clients import USERS, client_name, create_clients
from tests.lab.cluster.fake_cluster import FakeCluster


def test_every_user_has_a_pod_on_every_node_that_policies_select_by_namespace_and_role(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    names = create_clients(cluster, image="example:1")
    pods = [document for document in cluster.applied() if document["kind"] == "Pod"]
    assert [f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in pods] == list(names)
    assert len(names) == len(set(names)) == len(USERS) * 3
    for pod in pods:
        user = pod["metadata"]["namespace"]
        assert pod["metadata"]["labels"] == {"user": user, "role": USERS[user]}
        assert client_name(user, pod["spec"]["nodeName"]) == f"{user}/{pod['metadata']['name']}"


def test_pods_are_made_only_when_their_namespaces_have_an_account_and_waited_for(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    create_clients(cluster)
    asked = cluster.asked()
    accounts = [f"-n {user} get serviceaccount default" for user in USERS]
    assert asked[:5] == ["apply -f -", *accounts, "apply -f -"]
    assert [words.split()[2] for words in asked[5:]] == ["wait"] * 3
