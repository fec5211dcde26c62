"""Rule W6: which mark bits a rule of somebody else uses."""

import pytest

from service.network.mark_conflict import conflicting_lines, used_bits, used_connection_bits


@pytest.mark.parametrize(
    ("rule", "bits"),
    [
        ("meta mark & 0x00004000 == 0x00004000 counter packets 0 bytes 0 return", 0x4000),
        ("mark and 0x4000 != 0x4000 return", 0x4000),
        ("meta mark set mark or 0x8000", 0x8000),
        ("meta mark set meta mark | 0x00008000", 0x8000),
        ("meta mark set mark xor 0x1000", 0x1000),
        ("meta mark set mark and 0xffffefff", 0x1000),
        ("meta mark set meta mark & 0xffffbfff ^ 0x00004000", 0x4000),
        ("meta mark set 0x8000", 0x8000),
        ("meta mark 0x00001234 accept", 0x1234),
        ("meta mark != 0x00001000 accept", 0x1000),
        ("meta mark set ct mark and 0xff", 0),
        ("ct mark and 0x1000 == 0x1000 return", 0),
        ("ct mark set meta mark", 0),
        ("-A PREROUTING -m mark --mark 0x4000/0x4000 -j RETURN", 0x4000),
        ("-A PREROUTING -m mark ! --mark 0x1000/0x1000 -j RETURN", 0x1000),
        ("-A PREROUTING -m mark --mark 0x1 -j RETURN", 0x1),
        ("-A PREROUTING -j MARK --set-xmark 0x0/0x1000", 0x1000),
        ("-A PREROUTING -j MARK --set-xmark 0x1000/0x0", 0x1000),
        ("-A PREROUTING -j MARK --set-xmark 0x8000/0xffffffff", 0x8000),
        ("-A PREROUTING -m connmark --mark 0x1000/0x1000 -j RETURN", 0),
        ("-A PREROUTING -j CONNMARK --set-xmark 0x1000/0x1000", 0),
    ],
)
def test_a_rule_uses_the_bits_it_tests_or_changes(rule: str, bits: int) -> None:
    assert used_bits(rule) == bits


@pytest.mark.parametrize(
    ("rule", "bits"),
    [
        ("ct mark and 0x2000 == 0x2000 return", 0x2000),
        ("ct mark & 0x00002000 == 0x00002000 return", 0x2000),
        ("ct mark 0x00000539 accept", 0x539),
        ("ct mark != 0x1 accept", 0x1),
        ("ct mark set ct mark or 0x2000", 0x2000),
        ("ct mark set ct mark & 0xffffdfff", 0x2000),
        ("ct mark set 0x1", 0x1),
        ("ct mark set meta mark", 0),
        ("meta mark set ct mark and 0xff", 0),
        ("meta mark & 0x00002000 == 0x00002000 drop", 0),
        ("-A PREROUTING -m connmark --mark 0x80/0x80 -j RETURN", 0x80),
        ("-A PREROUTING -m connmark ! --mark 0x0 -j RETURN", 0),
        ("-A POSTROUTING -j CONNMARK --set-xmark 0x80/0x80", 0x80),
        ("-A PREROUTING -m mark --mark 0x2000/0x2000 -j RETURN", 0),
        ("-A PREROUTING -j MARK --set-xmark 0x2000/0x2000", 0),
    ],
)
def test_d2_a_rule_uses_the_bits_of_the_connection_mark_that_it_tests_or_changes(rule: str, bits: int) -> None:
    assert used_connection_bits(rule) == bits


def test_a_conflict_names_its_table_and_our_own_table_is_none() -> None:
    text = """
table ip egressgw {
    chain after_dstnat {
        meta mark & 0x00001000 == 0x00000000 return
    }
}
table ip other {
    chain x {
        meta mark & 0x00001000 == 0x00001000 drop
    }
}
"""
    found = conflicting_lines(text, 0x1000, used_bits, without_table="egressgw")
    assert found == ["table ip other: meta mark & 0x00001000 == 0x00001000 drop"]
