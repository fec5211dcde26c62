"""What follows from what an API server tells: the last good version stays, and absence means nothing too soon."""

from typing import Any

import pytest

from service.model.objects import Change, Delete, Errors, Kind, ObjectKey, Synced, Upsert
from service.sources.kubernetes.ledger import ObjectLedger, object_key
from service.sources.kubernetes.resource import Difference
from tests.policy.objects import namespace, pod
from tests.sources.kubernetes.scripted_api import own

GATEWAY = ObjectKey(Kind.GATEWAY, "kube-system", "default")


def spec(*floating_ips: object) -> dict[str, Any]:
    return {"floatingIPs": list(floating_ips)}


def told(ledger: ObjectLedger, kind: Kind, *values: Any, deletes: tuple[str, ...] = (), **more: Any) -> list[Change]:
    return list(ledger.take(kind, Difference(values, deletes, **more)))


def addresses(change: Change) -> list[str]:
    assert isinstance(change, Upsert)
    return [str(address) for address in change.object.floating_ips]  # type: ignore[union-attr]


def test_pods_pass_as_they_are() -> None:
    ledger = ObjectLedger([Kind.POD])
    item = pod("a", "10.0.0.1")
    assert told(ledger, Kind.POD, item) == [Upsert(item)]
    assert told(ledger, Kind.POD, deletes=(f"{item.key.namespace}/a",)) == [Delete(item.key)]


def test_synced_follows_once_and_only_when_every_kind_is_listed() -> None:
    ledger = ObjectLedger([Kind.POD, Kind.NAMESPACE])
    assert told(ledger, Kind.POD, is_listed=True) == []
    assert not ledger.is_synced
    assert told(ledger, Kind.NAMESPACE, namespace("shop")) == [Upsert(namespace("shop"))]
    assert told(ledger, Kind.NAMESPACE, is_listed=True) == [Synced()]
    assert ledger.is_synced
    assert told(ledger, Kind.NAMESPACE, is_listed=True) == []


def test_a_refused_version_leaves_the_last_good_one_in_force() -> None:
    ledger = ObjectLedger([Kind.GATEWAY])
    (change,) = told(ledger, Kind.GATEWAY, own(Kind.GATEWAY, "default", "kube-system", spec=spec("192.168.1.100")))
    assert addresses(change) == ["192.168.1.100"]
    bad = own(Kind.GATEWAY, "default", "kube-system", spec=spec("nonsense"))
    (errors,) = told(ledger, Kind.GATEWAY, bad)
    assert isinstance(errors, Errors)
    assert "nonsense" in str(errors.errors[0])
    assert ledger.seen(GATEWAY) == bad
    changes = told(ledger, Kind.GATEWAY, own(Kind.GATEWAY, "default", "kube-system", spec=spec("192.168.1.101")))
    assert addresses(changes[0]) == ["192.168.1.101"]
    assert changes[1] == Errors(())


def test_what_was_refused_from_the_first_is_never_deleted() -> None:
    ledger = ObjectLedger([Kind.GATEWAY])
    told(ledger, Kind.GATEWAY, own(Kind.GATEWAY, "default", "kube-system", spec=spec(1)))
    assert told(ledger, Kind.GATEWAY, deletes=("kube-system/default",)) == [Errors(())]
    assert ledger.seen(GATEWAY) is None


def test_a_new_status_is_seen_and_is_no_change() -> None:
    ledger = ObjectLedger([Kind.GATEWAY])
    told(ledger, Kind.GATEWAY, own(Kind.GATEWAY, "default", "kube-system", spec=spec()))
    again = own(Kind.GATEWAY, "default", "kube-system", spec=spec(), status={"leaderTerm": 3})
    assert told(ledger, Kind.GATEWAY, again) == []
    assert ledger.seen(GATEWAY) == again


def test_a_cluster_namespaces_gateway_is_only_remembered_however_wrong() -> None:
    ledger = ObjectLedger([Kind.GATEWAY])
    item = own(Kind.GATEWAY, "default", "cluster-a", spec=spec(1))
    assert told(ledger, Kind.GATEWAY, item) == []
    assert ledger.all_seen(Kind.GATEWAY) == (item,)
    assert told(ledger, Kind.GATEWAY, deletes=("cluster-a/default",)) == []
    assert ledger.all_seen(Kind.GATEWAY) == ()


def test_nodes_objects_are_seen_and_are_no_change() -> None:
    ledger = ObjectLedger([Kind.NODE])
    item = own(Kind.NODE, "worker1", "kube-system")
    assert told(ledger, Kind.NODE, item, is_listed=True) == [Synced()]
    assert ledger.all_seen(Kind.NODE) == (item,)
    assert ledger.all_seen(Kind.GATEWAY) == ()


def test_what_was_written_is_seen_before_the_watch_brings_it() -> None:
    ledger = ObjectLedger([Kind.GATEWAY])
    item = own(Kind.GATEWAY, "default", "kube-system", spec=spec("192.168.1.100"))
    ledger.note_written(item)
    assert ledger.seen(GATEWAY) == item
    assert addresses(*told(ledger, Kind.GATEWAY, item)) == ["192.168.1.100"]


def test_what_is_restored_is_of_the_kinds_not_listed_and_ends_in_synced() -> None:
    ledger = ObjectLedger([Kind.POD, Kind.NAMESPACE])
    told(ledger, Kind.NAMESPACE, is_listed=True)
    changes = ledger.restore([pod("a", "10.0.0.1"), namespace("of-another-day")])
    assert changes == (Upsert(pod("a", "10.0.0.1")), Synced())
    assert not ledger.is_synced


def test_what_was_restored_and_is_not_listed_is_deleted_then() -> None:
    ledger = ObjectLedger([Kind.POD])
    kept, lost = pod("kept", "10.0.0.1"), pod("lost", "10.0.0.2")
    ledger.restore([kept, lost])
    assert told(ledger, Kind.POD, kept) == [Upsert(kept)]
    assert told(ledger, Kind.POD, is_listed=True) == [Delete(lost.key), Synced()]


@pytest.fixture
def restored() -> ObjectLedger:
    """It knows of a day before the gateway that `own(..., spec=spec())` is."""
    (known,) = told(
        ObjectLedger([Kind.GATEWAY]), Kind.GATEWAY, own(Kind.GATEWAY, "default", "kube-system", spec=spec())
    )
    assert isinstance(known, Upsert)
    ledger = ObjectLedger([Kind.GATEWAY])
    ledger.restore([known.object])
    return ledger


def test_a_restored_gateway_that_the_api_server_confirms_is_no_change(restored: ObjectLedger) -> None:
    same = own(Kind.GATEWAY, "default", "kube-system", spec=spec())
    assert told(restored, Kind.GATEWAY, same, is_listed=True) == [Synced()]


def test_a_restored_gateway_that_is_gone_may_come_again_as_it_was(restored: ObjectLedger) -> None:
    assert told(restored, Kind.GATEWAY, is_listed=True) == [Delete(GATEWAY), Synced()]
    (change,) = told(restored, Kind.GATEWAY, own(Kind.GATEWAY, "default", "kube-system", spec=spec()))
    assert addresses(change) == []


def test_upserts_come_before_deletes_so_that_an_update_has_no_gap() -> None:
    ledger = ObjectLedger([Kind.POD])
    item = pod("new", "10.0.0.1")
    changes = told(ledger, Kind.POD, item, deletes=("shop/old",), is_listed=True)
    assert changes == [Upsert(item), Delete(ObjectKey(Kind.POD, "shop", "old")), Synced()]


def test_identities_are_keys() -> None:
    assert object_key(Kind.POD, "shop/a") == ObjectKey(Kind.POD, "shop", "a")
    assert object_key(Kind.NAMESPACE, "shop") == ObjectKey(Kind.NAMESPACE, "", "shop")
