"""What was decoded is kept while its source stays the same: rows and metadata are asked for many times a second."""

import logging
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from service.model.errors import PeerError

_log = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")


class Decoded(Generic[S, T]):
    """Values by key, in the order of their sources. It keeps nothing that the last sources did not have.

    A source is compared by identity, so it must be immutable, and the same object while it is unchanged.
    """

    def __init__(self, decode: Callable[[str, S], T | None], *, level: int) -> None:
        """`decode` may raise PeerError: such a source is left out, with one line in the log at this level."""
        self._decode = decode
        self._level = level
        self._revision: object = None
        self._known: dict[str, tuple[S, T | None]] = {}
        self._values: dict[str, T] = {}

    def read(self, revision: object, sources: Callable[[], Iterable[tuple[str, S]]]) -> Mapping[str, T]:
        """What the sources say, without those that say nothing; a view that the next call may replace.

        `revision` equals that of the last call where nothing has changed; then `sources` is not called.
        """
        if revision != self._revision:
            self._known = {key: self._understand(key, source) for key, source in sources()}
            self._values = {key: value for key, (_, value) in self._known.items() if value is not None}
            self._revision = revision
        return MappingProxyType(self._values)

    def _understand(self, key: str, source: S) -> tuple[S, T | None]:
        known = self._known.get(key)
        if known is not None and known[0] is source:
            return known
        try:
            return source, self._decode(key, source)
        except PeerError as error:
            # What one writer put there must cost no more than itself.
            _log.log(self._level, "gossip: %s", error)
            return source, None
