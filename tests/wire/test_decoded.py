import logging

import pytest

from service.model.errors import PeerError
from service.wire.decoded import Decoded


class Source:
    """Compared by identity, as everything that is kept here."""

    def __init__(self, word: str) -> None:
        self.word = word


class Bench:
    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.decoded_keys: list[str] = []
        self.decoded = Decoded(self._decode, level=logging.WARNING)
        self.revision = 0

    def _decode(self, key: str, source: Source) -> str | None:
        self.decoded_keys.append(key)
        if source.word == "nonsense":
            raise PeerError(f"{key}: nonsense")
        return source.word or None

    def read(self) -> dict[str, str]:
        return dict(self.decoded.read(self.revision, self.sources.items))


def test_each_source_is_decoded_once_and_again_only_where_it_is_another() -> None:
    bench = Bench()
    bench.sources = {"a": Source("one"), "b": Source("two")}
    assert [bench.read() for _ in range(3)] == [{"a": "one", "b": "two"}] * 3
    assert bench.decoded_keys == ["a", "b"]
    bench.sources["b"] = Source("three")
    bench.revision += 1
    assert bench.read() == {"a": "one", "b": "three"}
    assert bench.decoded_keys == ["a", "b", "b"]


def test_what_is_gone_is_kept_no_longer() -> None:
    bench = Bench()
    bench.sources = {"a": (source := Source("one"))}
    bench.read()
    bench.sources, bench.revision = {}, 1
    assert bench.read() == {}
    bench.sources, bench.revision = {"a": source}, 2
    assert bench.read() == {"a": "one"}
    assert bench.decoded_keys == ["a", "a"]


def test_nonsense_hides_nothing_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.sources = {"a": Source("nonsense"), "b": Source("two"), "c": Source("")}
    for revision in range(3):
        bench.revision = revision
        assert bench.read() == {"b": "two"}
    assert caplog.messages == ["gossip: a: nonsense"]
