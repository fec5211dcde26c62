"""Pods and namespaces by label. Only pods that own an address are indexed: no other pod can be selected."""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address

from service.model.objects import EgressRule, Labels, ObjectKey, Pod
from service.policy.label_index import LabelIndex
from service.policy.selector import constraints, is_rule_match

NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
"""Every namespace carries its own name under this key, as the API server enforces."""


class PodTable:
    """Answers: which pods changed by an event, and which pods could a rule match."""

    def __init__(self) -> None:
        self._pods: dict[ObjectKey, Pod] = {}
        """All pods, with or without an address."""
        # (node, address) -> pods that claim it, in the order they brought it. The last one owns it: after reuse, the
        # newer pod is the live one and the older only waits for its deletion to reach us. On another node it is
        # another matter: which of two pods is the live one is not known here, and the one that sends must not be
        # taken for unselected.
        self._claims: dict[tuple[str, IPv4Address], dict[ObjectKey, None]] = {}
        self._indexed: dict[ObjectKey, Pod] = {}
        """Pods that own their address, in the version in which they are filed below."""
        self._by_label: LabelIndex[ObjectKey] = LabelIndex()
        self._by_namespace: dict[str, dict[ObjectKey, None]] = {}
        """Indexed pods of each namespace that has any."""
        self._namespaces: dict[str, dict[str, str]] = {}
        """Labels of the namespaces that have an object, with the one that the API server adds."""
        self._namespaces_by_label: LabelIndex[str] = LabelIndex()
        """Of the namespaces in `_by_namespace`, whether or not their object has come yet."""

    def get(self, key: ObjectKey) -> Pod | None:
        """Return the pod if it owns an address."""
        return self._indexed.get(key)

    def put(self, pod: Pod) -> tuple[ObjectKey, ...]:
        """Take a pod's new version; return the pods that have to be looked at again, it among them."""
        old = self._pods.get(pod.key)
        if old == pod:
            return ()
        touched = {pod.key: None}
        # A later version of the same pod keeps its place among the claims: a stale pod whose labels change must
        # not take the address back. Another uid is another pod.
        if old is not None and (old.node, old.ip, old.uid) != (pod.node, pod.ip, pod.uid):
            touched |= self._withdraw(old)
        self._pods[pod.key] = pod
        if pod.ip is not None:
            claims = self._claims.setdefault((pod.node, pod.ip), {})
            # Whoever owned it so far may own it no more.
            touched |= dict.fromkeys(claims)
            claims.setdefault(pod.key)
        return self._reindex(touched)

    def remove(self, key: ObjectKey) -> tuple[ObjectKey, ...]:
        """Forget a pod; return the pods that have to be looked at again."""
        old = self._pods.pop(key, None)
        if old is None:
            return ()
        return self._reindex({key: None} | self._withdraw(old))

    def _withdraw(self, pod: Pod) -> dict[ObjectKey, None]:
        """End a pod's claim; return those who may own the address now."""
        if pod.ip is None:
            return {}
        place = (pod.node, pod.ip)
        claims = self._claims[place]
        del claims[pod.key]
        if not claims:
            del self._claims[place]
        return dict(claims)

    def _reindex(self, keys: Iterable[ObjectKey]) -> tuple[ObjectKey, ...]:
        changed = []
        for key in keys:
            # What is filed against what should be: an owner that changed, came or went is all that differs.
            indexed = self._indexed.get(key)
            wanted = self._pods.get(key) if self._is_owner(key) else None
            if indexed == wanted:
                continue
            changed.append(key)
            # Remove before add: both may carry the same labels.
            if indexed is not None:
                self._unindex(indexed)
            if wanted is not None:
                self._index(wanted)
        return tuple(changed)

    def _is_owner(self, key: ObjectKey) -> bool:
        pod = self._pods.get(key)
        return pod is not None and pod.ip is not None and next(reversed(self._claims[pod.node, pod.ip])) == key

    def _index(self, pod: Pod) -> None:
        self._indexed[pod.key] = pod
        self._by_label.add(pod.key, dict(pod.labels))
        namespace = pod.key.namespace
        if namespace not in self._by_namespace:
            # Namespaces without pods are not candidates for anything.
            self._by_namespace[namespace] = {}
            self._namespaces_by_label.add(namespace, self.namespace_labels(namespace))
        self._by_namespace[namespace][pod.key] = None

    def _unindex(self, pod: Pod) -> None:
        del self._indexed[pod.key]
        self._by_label.remove(pod.key, dict(pod.labels))
        namespace = pod.key.namespace
        del self._by_namespace[namespace][pod.key]
        if not self._by_namespace[namespace]:
            del self._by_namespace[namespace]
            self._namespaces_by_label.remove(namespace, self.namespace_labels(namespace))

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Return a namespace's labels; without an object, the one label that every namespace has."""
        labels = self._namespaces.get(namespace)
        return labels if labels is not None else {NAMESPACE_NAME_LABEL: namespace}

    def put_namespace(self, namespace: str, labels: Labels | None) -> None:
        """Take a namespace's labels; None where its object is gone."""
        before = self.namespace_labels(namespace)
        if labels is None:
            self._namespaces.pop(namespace, None)
        else:
            self._namespaces[namespace] = dict(labels) | {NAMESPACE_NAME_LABEL: namespace}
        if namespace in self._by_namespace:
            self._namespaces_by_label.remove(namespace, before)
            self._namespaces_by_label.add(namespace, self.namespace_labels(namespace))

    def in_namespace(self, namespace: str) -> tuple[ObjectKey, ...]:
        """The pods of a namespace that own an address, in the order in which they came to own it."""
        return tuple(self._by_namespace.get(namespace, ()))

    def on_node(self, node: str) -> Iterator[Pod]:
        """The pods of a node that own an address."""
        return (pod for pod in self._indexed.values() if pod.node == node)

    def is_match(self, pod: Pod, rules: Iterable[EgressRule]) -> bool:
        """Say whether any rule matches the pod."""
        labels, namespace_labels = dict(pod.labels), self.namespace_labels(pod.key.namespace)
        return any(is_rule_match(rule, labels, namespace_labels) for rule in rules)

    def matching(self, rules: Iterable[EgressRule]) -> dict[ObjectKey, None]:
        """Return all pods that any rule matches, by way of the smallest set of candidates of each rule."""
        found: dict[ObjectKey, None] = {}
        for rule in rules:
            for key in self._candidates(rule):
                if key not in found and self.is_match(self._indexed[key], (rule,)):
                    found[key] = None
        return found

    def _candidates(self, rule: EgressRule) -> Iterable[ObjectKey]:
        """Pods that meet one necessary condition of the rule, by the condition that the fewest meet."""
        pod_side = min(constraints(rule.pod_selector), key=self._by_label.count, default=None)
        pods = len(self._indexed) if pod_side is None else self._by_label.count(pod_side)
        namespaces = None
        # Each namespace constraint is priced in pods, not in namespaces: `team: big` may be one namespace of many.
        for constraint in constraints(rule.namespace_selector):
            names = tuple(self._namespaces_by_label.items(constraint))
            size = sum(len(self._by_namespace[name]) for name in names)
            if size < pods:
                namespaces, pods = names, size
        if namespaces is not None:
            return [key for name in namespaces for key in self._by_namespace[name]]
        return tuple(self._indexed) if pod_side is None else self._by_label.items(pod_side)
