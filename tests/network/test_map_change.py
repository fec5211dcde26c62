"""Changes of verdict maps in the words of nft."""

from ipaddress import IPv4Address

from service.network.map_change import Jump, MapChange, map_text

ONE, TWO = IPv4Address("10.0.0.1").packed, IPv4Address("10.0.0.2").packed


def test_changes_of_one_map_and_kind_are_one_line_and_keep_their_order() -> None:
    changes = [
        MapChange("a", ONE, None),
        MapChange("a", TWO, None),
        MapChange("a", ONE, "x", Jump.GOTO),
        MapChange("b", ONE, "y"),
    ]
    assert map_text("t", changes).splitlines() == [
        "delete element ip t a { 10.0.0.1, 10.0.0.2 }",
        "add element ip t a { 10.0.0.1 : goto x }",
        "add element ip t b { 10.0.0.1 : jump y }",
    ]
    assert map_text("t", []) == ""
