"""Good objects become values; bad ones name origin, object and field."""

import copy
import re
from dataclasses import fields
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from service.model.objects import (
    EgressPolicy,
    EgressRule,
    FlowTimeouts,
    Kind,
    LabelSelector,
    Namespace,
    NetworkGateway,
    ObjectKey,
    Operator,
    Pod,
    Requirement,
)
from service.settings import TimeoutSettings
from service.sources.document import parse_yaml
from service.sources.object_decoder import decode
from tests.sources.texts import GATEWAY, POLICY

CRDS = Path(__file__).parents[2] / "deploy" / "crds"
(GATEWAY_DOCUMENT,) = parse_yaml(GATEWAY)
(POLICY_DOCUMENT,) = parse_yaml(POLICY)
POD_DOCUMENT: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"namespace": "shop", "name": "web", "uid": "u1", "labels": {"role": "frontend"}},
    "spec": {"nodeName": "worker1", "containers": []},
    "status": {"podIP": "10.0.0.1", "phase": "Running", "qosClass": "BestEffort"},
}
NAMESPACE_DOCUMENT: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": "shop", "labels": {"user": "alice"}},
    "spec": {"finalizers": ["kubernetes"]},
}
DELETE = object()


def changed(document: dict[str, Any], path: str, value: object) -> Any:
    """Copy with one field set (or removed); `a.0.b` walks lists by number."""
    result = copy.deepcopy(document)
    *parents, last = path.split(".")
    place: Any = result
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    if value is DELETE:
        del place[last]
    elif isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return result


def test_the_example_gateway_is_read_as_written() -> None:
    decoded = decode(GATEWAY_DOCUMENT, origin="f")
    key = ObjectKey(Kind.GATEWAY, "kube-system", "default")
    addresses = tuple(IPv4Address(f"192.168.1.{last}") for last in (100, 101, 102))
    assert decoded.object == NetworkGateway(key, addresses)
    assert decoded.errors == ()


def test_o2_a_selector_of_nodes_is_read_and_none_is_the_same_as_null() -> None:
    said = {"matchLabels": {"rack": "a"}, "matchExpressions": [{"key": "gateway", "operator": "Exists"}]}
    found = decode(changed(GATEWAY_DOCUMENT, "spec.nodeSelector", said), origin="f").object
    assert isinstance(found, NetworkGateway)
    requirement = Requirement("gateway", Operator.EXISTS)
    assert found.node_selector == LabelSelector((("rack", "a"),), (requirement,))
    nothing = decode(changed(GATEWAY_DOCUMENT, "spec.nodeSelector", None), origin="f").object
    assert nothing == decode(GATEWAY_DOCUMENT, origin="f").object


@pytest.mark.parametrize(
    ("said", "field", "words"),
    [
        ("rack=a", "spec.nodeSelector", "a selector"),
        ({"rack": "a"}, "spec.nodeSelector.rack", "unknown field"),
        ({"matchLabels": {"rack": 1}}, "spec.nodeSelector.matchLabels.rack", "label value"),
        ({"matchLabels": {"a b": "1"}}, "spec.nodeSelector.matchLabels.a b", "label key"),
        (
            {"matchExpressions": [{"key": "rack", "operator": "In"}]},
            "spec.nodeSelector.matchExpressions[0].values",
            "",
        ),
    ],
)
def test_o2_a_selector_that_is_none_is_refused_by_its_field(said: Any, field: str, words: str) -> None:
    decoded = decode(changed(GATEWAY_DOCUMENT, "spec.nodeSelector", said), origin="f")
    assert decoded.object is None
    assert [error.field for error in decoded.errors] == [field]
    assert words in decoded.errors[0].message


def test_the_example_policy_is_read_as_written() -> None:
    frontend = LabelSelector((("role", "frontend"),))
    assert decode(POLICY_DOCUMENT, origin="f").object == EgressPolicy(
        ObjectKey(Kind.POLICY, "", "egress"),
        (
            EgressRule(LabelSelector((("user", "alice"),)), frontend),
            EgressRule(LabelSelector((("user", "paul"),)), frontend),
        ),
        (IPv4Network("8.8.8.0/24"),),
        IPv4Address("192.168.1.100"),
    )


def test_w14_exclusions_are_read_in_order_and_none_is_the_same_as_an_empty_list() -> None:
    document = changed(POLICY_DOCUMENT, "spec.excludedCIDRs", ["8.8.8.128/25", "8.8.8.8/32"])
    found = decode(document, origin="f").object
    assert isinstance(found, EgressPolicy)
    assert found.excluded == (IPv4Network("8.8.8.8/32"), IPv4Network("8.8.8.128/25"))
    for nothing in ([], None):
        document = changed(POLICY_DOCUMENT, "spec.excludedCIDRs", nothing)
        assert decode(document, origin="f").object == decode(POLICY_DOCUMENT, origin="f").object


def test_b3_timeouts_are_read_and_what_is_not_said_is_left_to_the_node() -> None:
    document = changed(
        POLICY_DOCUMENT, "spec.timeouts", {"udpSeconds": 30, "tcpOpenSeconds": 86_400, "icmpSeconds": None}
    )
    found = decode(document, origin="f").object
    assert isinstance(found, EgressPolicy)
    assert found.timeouts == FlowTimeouts(udp_s=30, tcp_open_s=86_400)
    for nothing in ({}, None):
        document = changed(POLICY_DOCUMENT, "spec.timeouts", nothing)
        assert decode(document, origin="f").object == decode(POLICY_DOCUMENT, origin="f").object


def test_b3_timeouts_have_one_range_in_settings_in_objects_and_in_the_definition() -> None:
    crd = yaml.safe_load((CRDS / "egressnatpolicy.yaml").read_text(encoding="utf-8"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["timeouts"]
    for name, field in schema["properties"].items():
        setting = re.sub("Seconds$", "S", name)
        setting = re.sub("([A-Z])", lambda found: f"_{found[1].lower()}", setting)
        for seconds, is_fine in (
            (field["minimum"] - 1, False),
            (field["minimum"], True),
            (field["maximum"], True),
            (field["maximum"] + 1, False),
        ):
            document = changed(POLICY_DOCUMENT, "spec.timeouts", {name: seconds})
            found = decode(document, origin="f")
            assert (not found.errors, name) == (is_fine, name)
            if is_fine:
                msgspec.convert({setting: seconds}, TimeoutSettings)
                assert isinstance(found.object, EgressPolicy)
                assert getattr(found.object.timeouts, setting) == seconds
            else:
                with pytest.raises(msgspec.ValidationError):
                    msgspec.convert({setting: seconds}, TimeoutSettings)
    assert len(schema["properties"]) == len(fields(FlowTimeouts))


def test_match_expressions_are_read() -> None:
    expressions = [
        {"key": "tier", "operator": "In", "values": ["b", "a", "b"]},
        {"key": "example.com/legacy", "operator": "DoesNotExist"},
        {"key": "zone", "operator": "NotIn", "values": ["z"]},
        {"key": "owner", "operator": "Exists", "values": []},
    ]
    document = changed(POLICY_DOCUMENT, "spec.egress", [{"podSelector": {"matchExpressions": expressions}}])
    item = decode(document, origin="f").object
    assert isinstance(item, EgressPolicy)
    assert item.rules == (
        EgressRule(
            LabelSelector(),
            LabelSelector(
                (),
                (
                    Requirement("tier", Operator.IN, ("a", "b")),
                    Requirement("example.com/legacy", Operator.DOES_NOT_EXIST),
                    Requirement("zone", Operator.NOT_IN, ("z",)),
                    Requirement("owner", Operator.EXISTS),
                ),
            ),
        ),
    )


def test_metadata_of_a_live_object_is_fine() -> None:
    metadata = {
        "name": "egress",
        "namespace": "ignored",
        "generation": 3,
        "creationTimestamp": "2024-05-01T12:00:00Z",
        "annotations": None,
        "labels": {},
        "managedFields": [],
        "resourceVersion": "7",
        "uid": "x",
    }
    item = decode(changed(POLICY_DOCUMENT, "metadata", metadata), origin="f").object
    assert isinstance(item, EgressPolicy)
    assert (item.key.namespace, item.created, item.generation) == ("", "2024-05-01T12:00:00.000000000Z", 3)


def test_an_api_server_may_know_more_fields_than_we_do() -> None:
    document = changed(changed(POLICY_DOCUMENT, "metadata.novelty", 1), "novelty", 1)
    assert decode(document, origin="kubernetes").object is None
    assert decode(document, origin="kubernetes", strict=False).object is not None


def test_pods_and_namespaces_are_read() -> None:
    assert decode(POD_DOCUMENT, origin="f").object == Pod(
        ObjectKey(Kind.POD, "shop", "web"), "u1", (("role", "frontend"),), "worker1", IPv4Address("10.0.0.1")
    )
    key = ObjectKey(Kind.NAMESPACE, "", "shop")
    assert decode(NAMESPACE_DOCUMENT, origin="f").object == Namespace(key, (("user", "alice"),))


@pytest.mark.parametrize(
    ("path", "value", "address"),
    [
        ("spec.hostNetwork", True, None),
        ("status.phase", "Succeeded", None),
        ("status.phase", "Failed", None),
        ("status.phase", "Pending", "10.0.0.1"),
        ("status.podIP", DELETE, None),
        ("status.podIP", "", None),
        ("status.podIP", "fd00::1", None),
        ("status", {"podIP": "fd00::1", "podIPs": [{"ip": "fd00::1"}, {"ip": "10.0.0.9"}]}, "10.0.0.9"),
        ("status", DELETE, None),
    ],
)
def test_only_pods_with_an_address_of_their_own_have_one(path: str, value: object, address: str | None) -> None:
    item = decode(changed(POD_DOCUMENT, path, value), origin="f").object
    assert isinstance(item, Pod)
    assert item.ip == (IPv4Address(address) if address else None)


EGRESS = "spec.egress.0.podSelector"
FIRST = "spec.egress[0].podSelector"
EXPRESSION = {"key": "tier", "operator": "In", "values": ["a"]}


def with_expression(**fields: object) -> Any:
    entry = {key: value for key, value in (EXPRESSION | fields).items() if value is not DELETE}
    return changed(POLICY_DOCUMENT, EGRESS, {"matchExpressions": [EXPRESSION, entry]})


SECOND = f"{FIRST}.matchExpressions[1]"
BAD_GATEWAYS = [
    ("spec", DELETE, "spec"),
    ("spec", None, "spec"),
    ("spec", [], "spec"),
    ("spec.floatingIPs", DELETE, "spec.floatingIPs"),
    ("spec.floatingIPs", None, "spec.floatingIPs"),
    ("spec.floatingIPs", "192.168.1.100", "spec.floatingIPs"),
    ("spec.floatingIPs.1", "192.168.1.256", "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", "192.168.1.010", "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", "192.168.1.100", "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", "192.168.1.0/24", "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", 3232235876, "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", None, "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", ["192.168.1.1"], "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", "fd00::1", "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", "127.0.0.1", "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", "224.0.0.1", "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", "255.255.255.255", "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", "0.0.0.0", "spec.floatingIPs[1]"),
    ("spec.floatingIPs.1", "169.254.1.1", "spec.floatingIPs[1]"),
    ("spec.floatingIps", [], "spec.floatingIps"),
    ("metadata.name", "other", "metadata.name"),
    ("metadata.namespace", "shop", "metadata.namespace"),
    ("metadata.namespace", DELETE, "metadata.namespace"),
    ("metadata.namespace", "Kube_System", "metadata.namespace"),
]
BAD_POLICIES = [
    ("apiVersion", "networking.gke.io/v1", "apiVersion"),
    ("apiVersion", DELETE, "apiVersion"),
    ("kind", DELETE, "kind"),
    ("kind", "EgressNatPolicy", "kind"),
    ("kind", 7, "kind"),
    ("metadata", DELETE, "metadata"),
    ("metadata", "egress", "metadata"),
    ("metadata.name", DELETE, "metadata.name"),
    ("metadata.name", 7, "metadata.name"),
    ("metadata.name", "../../etc/passwd", "metadata.name"),
    ("metadata.name", "Upper", "metadata.name"),
    ("metadata.nmae", "x", "metadata.nmae"),
    ("metadata.creationTimestamp", "yesterday", "metadata.creationTimestamp"),
    ("metadata.labels", ["x"], "metadata.labels"),
    ("specs", {}, "specs"),
    ("spec", DELETE, "spec"),
    ("spec.priority", 1, "spec.priority"),
    ("spec.egress", DELETE, "spec.egress"),
    ("spec.egress", [], "spec.egress"),
    ("spec.egress", {}, "spec.egress"),
    ("spec.egress.1", {}, "spec.egress[1]"),
    ("spec.egress.1", None, "spec.egress[1]"),
    ("spec.egress.1.podselector", {}, "spec.egress[1].podselector"),
    (EGRESS, None, FIRST),
    (f"{EGRESS}.matchLabel", {}, f"{FIRST}.matchLabel"),
    (f"{EGRESS}.matchLabels", None, f"{FIRST}.matchLabels"),
    (f"{EGRESS}.matchLabels", ["a"], f"{FIRST}.matchLabels"),
    (f"{EGRESS}.matchLabels.role", 1, f"{FIRST}.matchLabels.role"),
    (f"{EGRESS}.matchLabels.role", True, f"{FIRST}.matchLabels.role"),
    (f"{EGRESS}.matchLabels.role", "a b", f"{FIRST}.matchLabels.role"),
    (f"{EGRESS}.matchLabels.role", "x" * 64, f"{FIRST}.matchLabels.role"),
    (f"{EGRESS}.matchLabels.-role", "a", f"{FIRST}.matchLabels.-role"),
    (f"{EGRESS}.matchLabels.Bad_/role", "a", f"{FIRST}.matchLabels.Bad_/role"),
    (f"{EGRESS}.matchExpressions", {}, f"{FIRST}.matchExpressions"),
    ("spec.destinationCIDRs", DELETE, "spec.destinationCIDRs"),
    ("spec.destinationCIDRs", [], "spec.destinationCIDRs"),
    ("spec.destinationCIDRs", "8.8.8.0/24", "spec.destinationCIDRs"),
    ("spec.destinationCIDRs.0", "8.8.8.1/24", "spec.destinationCIDRs[0]"),
    ("spec.destinationCIDRs.0", "8.8.8.8", "spec.destinationCIDRs[0]"),
    ("spec.destinationCIDRs.0", "8.8.8.0/33", "spec.destinationCIDRs[0]"),
    ("spec.destinationCIDRs.0", "8.8.8.0/255.255.255.0", "spec.destinationCIDRs[0]"),
    ("spec.destinationCIDRs.0", "2001:db8::/32", "spec.destinationCIDRs[0]"),
    ("spec.destinationCIDRs.0", "internet", "spec.destinationCIDRs[0]"),
    ("spec.destinationCIDRs.0", 8, "spec.destinationCIDRs[0]"),
    ("spec.destinationCIDRs", ["8.8.8.0/24", "9.9.9.0/24", "8.8.8.0/24"], "spec.destinationCIDRs[2]"),
    ("spec.excludedCIDRs", "8.8.8.8/32", "spec.excludedCIDRs"),
    ("spec.excludedCIDRs", ["8.8.8.8"], "spec.excludedCIDRs[0]"),
    ("spec.excludedCIDRs", ["8.8.8.8/32", "8.8.8.9/31"], "spec.excludedCIDRs[1]"),
    ("spec.excludedCIDRs", ["2001:db8::/32"], "spec.excludedCIDRs[0]"),
    ("spec.excludedCIDRs", ["8.8.8.8/32", "8.8.8.8/32"], "spec.excludedCIDRs[1]"),
    ("spec.excludedCIDRs", ["8.8.8.0/24"], "spec.excludedCIDRs"),
    ("spec.timeouts", 30, "spec.timeouts"),
    ("spec.timeouts", {"udp": 30}, "spec.timeouts.udp"),
    ("spec.timeouts", {"udpSeconds": "30"}, "spec.timeouts.udpSeconds"),
    ("spec.timeouts", {"udpSeconds": True}, "spec.timeouts.udpSeconds"),
    ("spec.timeouts", {"udpSeconds": 4}, "spec.timeouts.udpSeconds"),
    ("spec.timeouts", {"udpSeconds": 86_401}, "spec.timeouts.udpSeconds"),
    ("spec.timeouts", {"udpSeconds": 30.0}, "spec.timeouts.udpSeconds"),
    ("spec.egressSourceIP", DELETE, "spec.egressSourceIP"),
    ("spec.egressSourceIP", "", "spec.egressSourceIP"),
    ("spec.egressSourceIP", ["192.168.1.100"], "spec.egressSourceIP"),
    ("spec.egressSourceIP", "192.168.1.100 ", "spec.egressSourceIP"),
    ("spec.egressSourceIP", "::1", "spec.egressSourceIP"),
]
BAD_OTHERS = [
    (changed(POD_DOCUMENT, "status.podIP", "10.0.0.999"), "status.podIP"),
    (changed(POD_DOCUMENT, "status.phase", "Runing"), "status.phase"),
    (changed(POD_DOCUMENT, "status", "Running"), "status"),
    (changed(POD_DOCUMENT, "spec.hostNetwork", "yes"), "spec.hostNetwork"),
    (changed(POD_DOCUMENT, "spec.nodeName", 1), "spec.nodeName"),
    (changed(POD_DOCUMENT, "metadata.lables", {}), "metadata.lables"),
    (changed(POD_DOCUMENT, "metadata.labels.role", None), "metadata.labels.role"),
    (changed(POD_DOCUMENT, "metadata.namespace", None), "metadata.namespace"),
    (changed(NAMESPACE_DOCUMENT, "metadata.name", "shop.example"), "metadata.name"),
    (changed(NAMESPACE_DOCUMENT, "apiVersion", "v2"), "apiVersion"),
    (with_expression(operator="Equals"), f"{SECOND}.operator"),
    (with_expression(operator="in"), f"{SECOND}.operator"),
    (with_expression(operator=DELETE), f"{SECOND}.operator"),
    (with_expression(operator=["In"]), f"{SECOND}.operator"),
    (with_expression(key=DELETE), f"{SECOND}.key"),
    (with_expression(key="a b"), f"{SECOND}.key"),
    (with_expression(values=DELETE), f"{SECOND}.values"),
    (with_expression(values=[]), f"{SECOND}.values"),
    (with_expression(values="a"), f"{SECOND}.values"),
    (with_expression(values=[1]), f"{SECOND}.values[0]"),
    (with_expression(operator="Exists"), f"{SECOND}.values"),
    (with_expression(value="a"), f"{SECOND}.value"),
    (changed(POLICY_DOCUMENT, f"{EGRESS}.matchExpressions", ["tier"]), f"{FIRST}.matchExpressions[0]"),
]
CORPUS = [
    *((changed(GATEWAY_DOCUMENT, path, value), field) for path, value, field in BAD_GATEWAYS),
    *((changed(POLICY_DOCUMENT, path, value), field) for path, value, field in BAD_POLICIES),
    *BAD_OTHERS,
]


@pytest.mark.parametrize(("document", "field"), CORPUS, ids=[f"{n}-{field}" for n, (_, field) in enumerate(CORPUS)])
def test_bad_input_names_file_object_and_field(document: Any, field: str) -> None:
    decoded = decode(document, origin="/manifests/bad.yaml")
    assert decoded.object is None
    assert [error.field for error in decoded.errors] == [field]
    (error,) = decoded.errors
    assert error.origin == "/manifests/bad.yaml"
    assert error.message
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    assert not isinstance(name, str) or name in error.name
    assert not isinstance(document.get("kind"), str) or error.kind == document["kind"]


def test_the_message_says_what_to_write_instead() -> None:
    document = changed(POLICY_DOCUMENT, "spec.destinationCIDRs.0", "8.8.8.1/24")
    (error,) = decode(document, origin="p.yaml").errors
    assert str(error) == (
        "p.yaml: EgressNATPolicy egress: spec.destinationCIDRs[0]: "
        "'8.8.8.1/24' has host bits set; write 8.8.8.0/24, or 8.8.8.1/32 for the one host"
    )


def test_all_errors_of_an_object_are_found_in_one_pass() -> None:
    document = changed(changed(POLICY_DOCUMENT, "spec.egressSourceIP", "x"), "spec.destinationCIDRs.0", "y")
    fields = [error.field for error in decode(document, origin="f").errors]
    assert fields == ["spec.destinationCIDRs[0]", "spec.egressSourceIP"]


@pytest.mark.parametrize("document", [None, 7, "text", [], [POLICY_DOCUMENT], {}, {1: 2}, {"kind": ["Pod"]}])
def test_what_is_no_object_is_an_error(document: object) -> None:
    decoded = decode(document, origin="f")
    assert decoded.object is None
    assert decoded.errors


def test_names_from_a_document_are_fit_for_a_log_line() -> None:
    document = changed(POLICY_DOCUMENT, "metadata.name", "a\n\x1b[31m\ud800" + "x" * 10_000)
    (error,) = decode(document, origin="f").errors
    assert str(error).isprintable()
    assert len(str(error)) < 1000


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("In")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["matchLabels", "matchExpressions", "key", "operator", "name"]), inner, max_size=3
        ),
    ),
    max_leaves=10,
)
PATHS = st.sampled_from(
    [
        "metadata",
        "metadata.name",
        "metadata.labels",
        "spec",
        "spec.egress",
        "spec.egress.0",
        "spec.egress.1.podSelector",
        "spec.destinationCIDRs",
        "spec.egressSourceIP",
        "spec.floatingIPs",
        "status",
        "kind",
        "apiVersion",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([GATEWAY_DOCUMENT, POLICY_DOCUMENT, POD_DOCUMENT, NAMESPACE_DOCUMENT]), PATHS, JSON)
def test_no_document_crashes_the_decoder(document: dict[str, Any], path: str, value: object) -> None:
    if "egress." in path and document is not POLICY_DOCUMENT:
        path = "spec"
    decoded = decode(changed(document, path, value), origin="f")
    assert (decoded.object is None) == bool(decoded.errors)
    assert all(str(error).isprintable() for error in decoded.errors)
