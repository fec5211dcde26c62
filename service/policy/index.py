"""From objects to selections, incrementally: the work of a change is in proportion to what it changes.

Kept at all times: which policies match which pod, in both directions, for accepted and refused policies alike. A policy
that is accepted later then only has to look at its own pods. Equal to a rebuild from scratch after every batch; a
property test compares the two with a naive matcher.

A batch goes through three steps. Each change updates the tables and the match relation, and marks what it touched.
Then the policies of every touched address are judged together, which marks more pods. At last the marked pods and
policies are computed anew, and what really came out differently is the delta: a batch that ends where it began is no
news, whatever happened in between.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from types import MappingProxyType

from service.model.objects import (
    GATEWAY_NAME,
    GATEWAY_NAMESPACE,
    Change,
    Delete,
    EgressPolicy,
    Kind,
    Namespace,
    NetworkGateway,
    Object,
    ObjectKey,
    Pod,
    Upsert,
)
from service.policy.acceptance import PolicyState, Verdict, judge, precedence
from service.policy.named import NamedNetworks
from service.policy.overlap import OverlapIndex
from service.policy.pod_table import PodTable
from service.policy.rule_set import RuleSetCatalog, Selection, policy_content
from service.policy.term_index import TermIndex

_GATEWAY = ObjectKey(Kind.GATEWAY, GATEWAY_NAMESPACE, GATEWAY_NAME)


@dataclass(frozen=True, slots=True)
class PolicyDelta:
    """What a batch changed. Empty fields mean: nothing to do."""

    selections: dict[ObjectKey, Selection | None] = field(default_factory=dict)
    """Pods whose address, node, rule set or policies changed; None: no longer selected."""
    pods: dict[ObjectKey, Pod | None] = field(default_factory=dict)
    """Pods, selected or not, that came to own an address, or another one; None: they own none any more."""
    policies: dict[ObjectKey, PolicyState | None] = field(default_factory=dict)
    """Policies whose state changed; None: deleted."""
    gateway_changed: bool = False
    """The gateway object came, went or differs in anything, its generation included."""


@dataclass(slots=True)
class _Dirty:
    """What has to be computed again at the end of a batch. Dicts are ordered sets."""

    pods: dict[ObjectKey, None] = field(default_factory=dict)
    """Pods whose selection has to be made anew."""
    policies: dict[ObjectKey, None] = field(default_factory=dict)
    """Policies whose state may read otherwise: another verdict, or another number of pods."""
    addresses: dict[IPv4Address, None] = field(default_factory=dict)
    """Egress source addresses whose policies have to be judged."""
    owners: dict[ObjectKey, None] = field(default_factory=dict)
    """Pods that may own another address."""


class PolicyIndex:
    """All objects of a source, and what they select."""

    def __init__(self, *, pod_cidrs_known: bool) -> None:
        self._pod_cidrs_known = pod_cidrs_known
        self._gateway: NetworkGateway | None = None
        self._pods = PodTable()
        self._terms = TermIndex()
        self._catalog = RuleSetCatalog()
        self._overlaps = OverlapIndex()
        self.named = NamedNetworks()
        """What policies in force name."""
        self._policies: dict[ObjectKey, EgressPolicy] = {}
        self._contents: dict[ObjectKey, int] = {}
        """Content name of each policy, as the catalog knows it."""
        self._by_address: dict[IPv4Address, dict[ObjectKey, None]] = {}
        """Policies by egress source address: those that are judged together."""
        # The match relation, both ways: (pod, policy) is in the one exactly if it is in the other.
        self._pods_of: dict[ObjectKey, dict[ObjectKey, None]] = {}
        self._policies_of: dict[ObjectKey, dict[ObjectKey, None]] = {}
        # Outcomes of the last batch, against which the next one is compared.
        self._verdicts: dict[ObjectKey, Verdict] = {}
        self._states: dict[ObjectKey, PolicyState] = {}
        self._selections: dict[ObjectKey, Selection] = {}
        self._owners: dict[ObjectKey, Pod] = {}
        """Pods that own an address."""
        self._followers: list[Callable[[PolicyDelta], None]] = []

    def follow(self, follower: Callable[[PolicyDelta], None]) -> None:
        """Have each batch's net effect told, when all that is asked of this is as of after it."""
        self._followers.append(follower)

    def selections(self) -> Mapping[ObjectKey, Selection]:
        """Return a live view of all selected pods."""
        return MappingProxyType(self._selections)

    def policy_states(self) -> Mapping[ObjectKey, PolicyState]:
        """Return a live view of the state of every policy."""
        return MappingProxyType(self._states)

    def gateway(self) -> NetworkGateway | None:
        """Return the one gateway object in use: `default` in kube-system."""
        return self._gateway

    def pods_on(self, node: str) -> Iterator[Pod]:
        """The pods of a node that own an address there, selected or not."""
        return self._pods.on_node(node)

    def pod(self, key: ObjectKey) -> Pod | None:
        """A pod that owns an address; None for any other."""
        return self._pods.get(key)

    def policy(self, key: ObjectKey) -> EgressPolicy | None:
        """Return a policy, accepted or not; None where there is none of that name."""
        return self._policies.get(key)

    def nodes_of(self, policy: ObjectKey) -> frozenset[str]:
        """The nodes that have pods of a policy, accepted or not."""
        pods = (self._pods.get(key) for key in self._pods_of.get(policy, ()))
        return frozenset(pod.node for pod in pods if pod is not None)

    def apply(self, changes: Iterable[Change], *, pod_cidrs_known: bool | None = None) -> PolicyDelta:
        """Take a batch in order and return its net effect; Errors and Synced mean nothing here.

        `pod_cidrs_known` says whether any pod range is known from now on; None: as before.
        """
        dirty, gateway = _Dirty(), self._gateway
        if pod_cidrs_known not in (None, self._pod_cidrs_known):
            self._pod_cidrs_known = bool(pod_cidrs_known)
            dirty.addresses |= dict.fromkeys(self._by_address)
        for change in changes:
            if isinstance(change, Upsert):
                self._upsert(change.object, dirty)
            elif isinstance(change, Delete):
                self._delete(change.key, dirty)
        # The order matters: verdicts decide which policies a selection is made of, and mark more pods.
        self._judge(dirty)
        delta = PolicyDelta(
            selections=self._reselect(dirty),
            pods=self._renew_owners(dirty.owners),
            policies=self._restate(dirty.policies),
            gateway_changed=self._gateway != gateway,
        )
        # Last, so that whoever follows may ask this index and finds what it was told. Told from here, and not by the
        # caller with what this returns: none can forget to hand a difference on.
        for follower in self._followers:
            follower(delta)
        return delta

    def _upsert(self, item: Object, dirty: _Dirty) -> None:
        # Nodes and service ranges are no matter of selection; the gateway of another name is not in use.
        match item:
            case Pod():
                self._rematch_pods(self._pods.put(item), dirty)
            case Namespace():
                self._change_namespace(item.key.name, item, dirty)
            case EgressPolicy():
                self._put_policy(item, dirty)
            case NetworkGateway():
                if item.key == _GATEWAY:
                    self._change_gateway(item, dirty)

    def _delete(self, key: ObjectKey, dirty: _Dirty) -> None:
        match key.kind:
            case Kind.POD:
                self._rematch_pods(self._pods.remove(key), dirty)
            case Kind.NAMESPACE:
                self._change_namespace(key.name, None, dirty)
            case Kind.POLICY:
                self._remove_policy(key, dirty)
            case Kind.GATEWAY:
                if key == _GATEWAY:
                    self._change_gateway(None, dirty)

    def _rematch_pods(self, keys: Iterable[ObjectKey], dirty: _Dirty) -> None:
        for key in keys:
            dirty.owners[key] = None
            pod = self._pods.get(key)
            # None where it is gone or lost its address: then it matches nothing, and every link goes.
            matches: dict[ObjectKey, None] = {}
            if pod is not None:
                matches = self._terms.matching(dict(pod.labels), self._pods.namespace_labels(key.namespace))
            # Even with the same policies its address or node may be another.
            dirty.pods[key] = None
            for policy in tuple(self._policies_of.get(key, ())):
                if policy not in matches:
                    self._unlink(policy, key, dirty)
            for policy in matches:
                self._link(policy, key, dirty)

    def _change_namespace(self, name: str, item: Namespace | None, dirty: _Dirty) -> None:
        before = dict(self._pods.namespace_labels(name))
        self._pods.put_namespace(name, item.labels if item else None)
        after = dict(self._pods.namespace_labels(name))
        keys = [key for key in before | after if before.get(key) != after.get(key)]
        # Policies outside this answer have the same verdict on every pod of the namespace as before.
        for policy in self._terms.flipped(keys, before, after):
            rules = self._policies[policy].rules
            for key in self._pods.in_namespace(name):
                pod = self._pods.get(key)
                if pod is not None and self._pods.is_match(pod, rules):
                    self._link(policy, key, dirty)
                else:
                    self._unlink(policy, key, dirty)

    def _change_gateway(self, gateway: NetworkGateway | None, dirty: _Dirty) -> None:
        old = self._gateway.floating_ips if self._gateway else ()
        new = gateway.floating_ips if gateway else ()
        # The message of an unknown address says whether there is a gateway at all, hence all of them in that case.
        appears = (self._gateway is None) != (gateway is None)
        touched = self._by_address if appears else [ip for ip in (*old, *new) if (ip in old) != (ip in new)]
        dirty.addresses |= dict.fromkeys(touched)
        self._gateway = gateway

    def _put_policy(self, policy: EgressPolicy, dirty: _Dirty) -> None:
        key, old = policy.key, self._policies.get(policy.key)
        if old == policy:
            return
        content = policy_content(policy)
        self._policies[key] = policy
        dirty.policies[key] = None
        # Four things can differ (content, age, address, rules), and each costs only its own work.
        if self._contents.get(key) != content:
            self._rename(key, content, policy)
            dirty.pods |= self._pods_of.get(key, {})
        elif old is not None and precedence(old) != precedence(policy):
            # Its age orders it among the policies of each pod.
            dirty.pods |= self._pods_of.get(key, {})
        self._file_address(key, old, policy, dirty)
        if old is None or old.rules != policy.rules:
            self._rematch_policy(old, policy, dirty)

    def _rename(self, key: ObjectKey, content: int, policy: EgressPolicy) -> None:
        # Learn before forget, so that at no time a policy is without content.
        self._catalog.learn(content, policy)
        if key in self._contents:
            self._catalog.forget(self._contents[key])
        self._contents[key] = content

    def _remove_policy(self, key: ObjectKey, dirty: _Dirty) -> None:
        policy = self._policies.pop(key, None)
        if policy is None:
            return
        for pod in tuple(self._pods_of.get(key, ())):
            self._unlink(key, pod, dirty)
        self._terms.remove(policy)
        content = self._contents.pop(key)
        self._catalog.forget(content)
        self._file_address(key, policy, None, dirty)
        dirty.policies[key] = None

    def _file_address(self, key: ObjectKey, old: EgressPolicy | None, new: EgressPolicy | None, dirty: _Dirty) -> None:
        """Move a policy between the groups that are judged together; both groups have to be judged again."""
        if old is not None:
            group = self._by_address[old.egress_source_ip]
            del group[key]
            if not group:
                del self._by_address[old.egress_source_ip]
            dirty.addresses[old.egress_source_ip] = None
        if new is not None:
            self._by_address.setdefault(new.egress_source_ip, {})[key] = None
            dirty.addresses[new.egress_source_ip] = None

    def _rematch_policy(self, old: EgressPolicy | None, policy: EgressPolicy, dirty: _Dirty) -> None:
        # The term index first, so that pods of later changes of this batch find the rules of now.
        if old is not None:
            self._terms.remove(old)
        self._terms.add(policy)
        matches = self._pods.matching(policy.rules)
        for pod in tuple(self._pods_of.get(policy.key, ())):
            if pod not in matches:
                self._unlink(policy.key, pod, dirty)
        for pod in matches:
            self._link(policy.key, pod, dirty)

    def _link(self, policy: ObjectKey, pod: ObjectKey, dirty: _Dirty) -> None:
        if pod in self._pods_of.setdefault(policy, {}):
            return
        self._pods_of[policy][pod] = None
        self._policies_of.setdefault(pod, {})[policy] = None
        dirty.pods[pod] = dirty.policies[policy] = None

    def _unlink(self, policy: ObjectKey, pod: ObjectKey, dirty: _Dirty) -> None:
        if pod not in self._pods_of.get(policy, {}):
            return
        for relation, one, other in ((self._pods_of, policy, pod), (self._policies_of, pod, policy)):
            del relation[one][other]
            if not relation[one]:
                del relation[one]
        dirty.pods[pod] = dirty.policies[policy] = None

    def _judge(self, dirty: _Dirty) -> None:
        """Judge the policies of each touched address anew, and mark what follows from another verdict."""
        verdicts: dict[ObjectKey, Verdict] = {}
        for address in dirty.addresses:
            group = [self._policies[key] for key in self._by_address.get(address, ())]
            verdicts |= judge(group, self._gateway, pod_cidrs_known=self._pod_cidrs_known)
        for key, verdict in verdicts.items():
            old = self._verdicts.get(key)
            self._verdicts[key] = verdict
            # Only being accepted or not bears on selection. An unknown egress IP does not: it stays in the rule sets,
            # and the datapath drops (promise 2), so adding the address to the gateway disturbs no pod's rows.
            if old is None or old.accepted != verdict.accepted:
                dirty.pods |= self._pods_of.get(key, {})
            if old != verdict:
                dirty.policies[key] = None

    def _reselect(self, dirty: _Dirty) -> dict[ObjectKey, Selection | None]:
        """Select every marked pod anew, and mark the policies that other ones overlap from now on, or no longer."""
        changed: dict[ObjectKey, Selection | None] = {}
        for key in dirty.pods:
            old, new = self._selections.get(key), self._select(key)
            self._overlay(old.policies if old else (), new.policies if new else (), dirty)
            if new is not None:
                self._selections[key] = new
            elif old is not None:
                del self._selections[key]
            # Labels that select the same policies as before are no news to the datapath.
            if not is_same_selection(old, new):
                changed[key] = new
        return changed

    def _overlay(self, old: tuple[int, ...], new: tuple[int, ...], dirty: _Dirty) -> None:
        """A pod has the combination `new` now, and had `old`; empty where it is not selected."""
        if old == new:
            return
        if new:
            dirty.policies |= dict.fromkeys(self._overlaps.add(new, self._catalog.policies(new)))
        if old:
            dirty.policies |= dict.fromkeys(self._overlaps.remove(old))

    def _select(self, key: ObjectKey) -> Selection | None:
        pod = self._pods.get(key)
        # In precedence order, because of equal destinations the older policy's counts; and in that order the contents
        # are announced, so that a node which has not judged them makes the same rule set of them.
        policies = [self._policies[policy] for policy in self._policies_of.get(key, ())]
        accepted = sorted((p for p in policies if self._verdicts[p.key].accepted), key=precedence)
        contents = tuple(self._contents[policy.key] for policy in accepted)
        rule_set = self._catalog.resolve(contents)
        if pod is None or rule_set is None:
            return None
        return Selection(pod, rule_set, contents)

    def _renew_owners(self, keys: Iterable[ObjectKey]) -> dict[ObjectKey, Pod | None]:
        changed: dict[ObjectKey, Pod | None] = {}
        for key in keys:
            # Against what was told last: a pod that came and went within the batch is no news.
            old, new = self._owners.get(key), self._pods.get(key)
            if new is not None:
                self._owners[key] = new
            elif old is not None:
                del self._owners[key]
            if not is_same_place(old, new):
                changed[key] = new
        return changed

    def _restate(self, keys: Iterable[ObjectKey]) -> dict[ObjectKey, PolicyState | None]:
        changed: dict[ObjectKey, PolicyState | None] = {}
        for key in keys:
            policy = self._policies.get(key)
            if policy is None:
                self.named.put(key, ())
                self._verdicts.pop(key, None)
                # Created and deleted within one batch: nobody heard of it.
                if self._states.pop(key, None) is not None:
                    changed[key] = None
                continue
            verdict, matched = self._verdicts[key], len(self._pods_of.get(key, ()))
            self.named.put(key, policy.destinations if verdict.accepted else ())
            state = PolicyState(
                verdict.accepted,
                verdict.reason,
                verdict.message,
                matched,
                policy.egress_source_ip,
                self._overlaps.of(key),
            )
            if self._states.get(key) != state:
                self._states[key] = changed[key] = state
        return changed


def is_same_place(one: Pod | None, other: Pod | None) -> bool:
    """Whether two versions of a pod are the same pod, on the same node under the same address."""
    if one is None or other is None:
        return one is other
    return (one.uid, one.ip, one.node) == (other.uid, other.ip, other.node)


def is_same_selection(one: Selection | None, other: Selection | None) -> bool:
    """Whether two selections are the same for the datapath.

    The uid counts: a pod that was replaced under its name is another, though address and rule set be the same.
    """
    if one is None or other is None:
        return one is other
    is_same_set = (one.rule_set.id, one.policies) == (other.rule_set.id, other.policies)
    return is_same_set and is_same_place(one.pod, other.pod)
