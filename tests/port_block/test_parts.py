"""Tables that come in several datagrams."""

from service.port_block.parts import Parts


def test_parts_in_any_order_and_doubled_come_together_once() -> None:
    parts: Parts[str] = Parts()
    assert parts.add((1, 1), 1, 2, ("b",)) is None
    assert parts.add((1, 1), 1, 2, ("b",)) is None
    assert parts.add((1, 1), 0, 2, ("a",)) == ["a", "b"]
    assert parts.add((1, 1), 0, 2, ("a",)) is None


def test_parts_of_two_editions_are_never_mixed() -> None:
    parts: Parts[str] = Parts()
    parts.add((1, 1), 0, 2, ("old",))
    assert parts.add((1, 2), 1, 2, ("new b",)) is None
    assert parts.add((1, 1), 1, 2, ("old b",)) is None
    assert parts.add((1, 2), 0, 2, ("new",)) == ["new", "new b"]
