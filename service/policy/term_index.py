"""The other direction: which egress rules a changed pod could match, without asking all of them.

Each rule (a *term* of its policy) is filed under one necessary label only, the one whose bucket is emptiest, so that a
thousand policies that share `role: frontend` but differ in the namespace's `user` cost a pod event a handful of checks.
One is enough to find it: a pod that lacks a necessary label cannot match. That it has the label does not make it match,
so every candidate is still checked in full.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from service.model.objects import EgressPolicy, EgressRule, ObjectKey
from service.policy.selector import Constraint, constraints, is_match, is_rule_match, mentioned_keys


class _Bucket(NamedTuple):
    """Where a term is filed; `value` None is the bucket of Exists."""

    scope: str
    """Whose label it is: the pod's or its namespace's."""
    key: str
    value: str | None


_POD = "pod"
_NAMESPACE = "namespace"
# Terms without any positive requirement: every pod has to ask them, and most pods match them anyway.
_ANY = _Bucket("any", "", None)

_TermKey = tuple[ObjectKey, int]
"""(policy, position of the rule in it)."""


class TermIndex:
    """All rules of all policies, accepted or not: a refused policy may be accepted at any time."""

    def __init__(self) -> None:
        self._terms: dict[_Bucket, dict[_TermKey, EgressRule]] = {}
        """No bucket is ever empty. A term that asks for one of several values has a copy under each."""
        self._filed: dict[ObjectKey, list[tuple[_Bucket, _TermKey]]] = {}
        """Where the terms of a policy are: the choice of then, which would come out differently now."""
        # Namespace label key -> terms whose namespace selector mentions it, positively or not.
        self._mentions: dict[str, dict[_TermKey, EgressRule]] = {}

    def add(self, policy: EgressPolicy) -> None:
        """File every rule of a policy that is not in the index."""
        filed = self._filed.setdefault(policy.key, [])
        for position, rule in enumerate(policy.rules):
            term = (policy.key, position)
            for bucket in self._place(rule):
                self._terms.setdefault(bucket, {})[term] = rule
                filed.append((bucket, term))
            for key in mentioned_keys(rule.namespace_selector):
                self._mentions.setdefault(key, {})[term] = rule

    def remove(self, policy: EgressPolicy) -> None:
        """Forget a policy; `policy` is the version that was added."""
        for bucket, term in self._filed.pop(policy.key):
            terms = self._terms[bucket]
            del terms[term]
            if not terms:
                del self._terms[bucket]
        for position, rule in enumerate(policy.rules):
            for key in mentioned_keys(rule.namespace_selector):
                mentions = self._mentions[key]
                del mentions[policy.key, position]
                if not mentions:
                    del self._mentions[key]

    def matching(self, pod_labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> dict[ObjectKey, None]:
        """Return the policies of which at least one rule matches."""
        # Rules are ORed: one that matches settles it for its policy.
        found: dict[ObjectKey, None] = {}
        for (policy, _), rule in self.candidates(pod_labels, namespace_labels):
            if policy not in found and is_rule_match(rule, pod_labels, namespace_labels):
                found[policy] = None
        return found

    def candidates(
        self, pod_labels: Mapping[str, str], namespace_labels: Mapping[str, str]
    ) -> Iterator[tuple[_TermKey, EgressRule]]:
        """Yield every term that could match, each once: an object has one value per key, so one bucket per option."""
        yield from self._terms.get(_ANY, {}).items()
        for scope, labels in ((_POD, pod_labels), (_NAMESPACE, namespace_labels)):
            for key, value in labels.items():
                yield from self._terms.get(_Bucket(scope, key, value), {}).items()
                yield from self._terms.get(_Bucket(scope, key, None), {}).items()

    def flipped(
        self, keys: Iterable[str], before: Mapping[str, str], after: Mapping[str, str]
    ) -> dict[ObjectKey, None]:
        """Return the policies with a rule whose namespace side gives another answer since `keys` changed."""
        # Only terms that mention a changed key can flip, so a label nobody selects by costs nothing.
        found: dict[ObjectKey, None] = {}
        for key in keys:
            for (policy, _), rule in self._mentions.get(key, {}).items():
                selector = rule.namespace_selector
                if policy not in found and is_match(selector, before) != is_match(selector, after):
                    found[policy] = None
        return found

    def _place(self, rule: EgressRule) -> list[_Bucket]:
        """Choose the buckets of the cheapest necessary condition."""
        options = [_buckets(_POD, constraint) for constraint in constraints(rule.pod_selector)]
        options += [_buckets(_NAMESPACE, constraint) for constraint in constraints(rule.namespace_selector)]
        if not options:
            return [_ANY]
        # Fewest terms already there; then the option that needs the fewest copies (In with many values).
        return min(options, key=lambda option: (sum(len(self._terms.get(b, ())) for b in option), len(option)))


def _buckets(scope: str, constraint: Constraint) -> list[_Bucket]:
    values: Iterable[str | None] = (None,) if constraint.values is None else dict.fromkeys(constraint.values)
    return [_Bucket(scope, constraint.key, value) for value in values]
