"""Inverted index from labels to the objects that carry them: which pods (or namespaces) a new selector could match."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Generic, TypeVar

from service.policy.selector import Constraint

T = TypeVar("T", bound=Hashable)


class LabelIndex(Generic[T]):
    """key -> value -> items. Dicts stand in for ordered sets, so that iteration is the same in every process."""

    def __init__(self) -> None:
        self._items: dict[str, dict[str, dict[T, None]]] = {}
        """No bucket is ever empty."""

    def add(self, item: T, labels: Mapping[str, str]) -> None:
        """File the item under each of its labels; it must not be filed already."""
        for key, value in labels.items():
            self._items.setdefault(key, {}).setdefault(value, {})[item] = None

    def remove(self, item: T, labels: Mapping[str, str]) -> None:
        """Forget the item; `labels` are those it was added with."""
        for key, value in labels.items():
            values = self._items[key]
            del values[value][item]
            # Empty buckets go, else labels with a value per pod (pod-template-hash) would grow without bound.
            if not values[value]:
                del values[value]
                if not values:
                    del self._items[key]

    def buckets(self, constraint: Constraint) -> list[dict[T, None]]:
        """Return the buckets whose union satisfies the constraint; an item is in at most one of them."""
        values = self._items.get(constraint.key)
        if values is None:
            return []
        if constraint.values is None:
            return list(values.values())
        return [values[value] for value in constraint.values if value in values]

    def count(self, constraint: Constraint) -> int:
        """How many items satisfy the constraint; costs the number of its buckets, not of the items."""
        return sum(map(len, self.buckets(constraint)))

    def items(self, constraint: Constraint) -> Iterator[T]:
        """Yield the items that satisfy the constraint, each once."""
        for bucket in self.buckets(constraint):
            yield from bucket
