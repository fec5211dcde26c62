"""The part of CEL that the resource definitions use. That it says what the API server says: tests/kubernetes."""

from typing import Any

import pytest

from service.sources.cel import CelError, Rule, parse


def value(text: str, own: Any = None) -> object:
    return parse(text)({"self": own})


@pytest.mark.parametrize(
    "text",
    [
        "'a' + 'b' == 'ab'",
        "'a' == 'a' || 'a' == 'b'",
        "!('a' == 'b') && 'a' != 'b'",
        "'a' in ['b', 'a']",
        "!('c' in ['b', 'a'])",
        "size('abc') == 3 && 'abc'.size() <= 3 && size(['x']) < 2 && 3 > 2 && 3 >= 3",
        "['a', 'b'].all(one, one.size() == 1)",
        "!['a', 'bb'].all(one, one.size() == 1)",
        "['a', 'b'].all(one, ['a', 'b'].exists_one(other, other == one))",
        "!['a', 'a'].exists_one(one, one == 'a')",
        "'tier'.matches('^[a-z]+$')",
        "!'tier 2'.matches('^[a-z]+$')",
        "'xtier'.matches('tier')",
        "isIP('10.0.0.1') && isIP('2001:db8::1')",
        "!isIP('10.0.0.1/24') && !isIP('10.0.0.01') && !isIP('fe80::1%eth0') && !isIP('::ffff:1.2.3.4') && !isIP('')",
        "ip('10.0.0.1').family() == 4 && ip('2001:db8::1').family() == 6",
        "ip('10.0.0.1').isGlobalUnicast() && !ip('127.0.0.1').isGlobalUnicast() && !ip('0.0.0.0').isGlobalUnicast()",
        "!ip('224.0.0.1').isGlobalUnicast() && !ip('169.254.0.1').isGlobalUnicast()",
        "!ip('255.255.255.255').isGlobalUnicast()",
        "isCIDR('10.0.0.0/8') && isCIDR('10.1.0.0/8') && isCIDR('2001:db8::/32')",
        "!isCIDR('10.0.0.0') && !isCIDR('10.0.0.0/33') && !isCIDR('10.0.0.0/08') && !isCIDR('10.0.0.0/255.0.0.0')",
        "cidr('10.0.0.0/8').ip().family() == 4",
        "cidr('10.0.0.0/8') == cidr('10.0.0.0/8').masked() && cidr('10.1.0.0/8') != cidr('10.1.0.0/8').masked()",
    ],
)
def test_an_expression_is_true(text: str) -> None:
    assert value(text) is True


def test_members_and_whether_they_are_there() -> None:
    own = {"podSelector": {"size": "x"}, "values": []}
    assert value("has(self.podSelector) && !has(self.namespaceSelector)", own) is True
    assert value("self.podSelector.size == 'x'", own) is True
    assert value("!has(self.podSelector.other)", own) is True
    assert value("self.all(key, key.size() > 3)", own) is True


def test_what_decides_is_not_asked_further() -> None:
    assert value("!isIP(self) || ip(self).family() == 4", "no address") is True
    assert value("isIP(self) && ip(self).family() == 4", "no address") is False


def test_a_last_newline_is_not_overlooked() -> None:
    assert value("self.matches('^a$')", "a\n") is False


@pytest.mark.parametrize(
    "text", ["", "self.", "(self", "self.filter(x, x)", "size(self", "self ? 1 : 2", "'a' 'b'", "1 1", "[1", "self == "]
)
def test_what_is_not_in_this_part_is_refused_when_it_is_parsed(text: str) -> None:
    with pytest.raises(CelError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "own"),
    [("self.a == 1", {}), ("self < 1", "x"), ("self || self", 1), ("ip(self).family() == 4", "x"), ("other == 1", 1)],
)
def test_a_value_that_an_expression_cannot_be_asked_of_is_an_error(text: str, own: Any) -> None:
    with pytest.raises(CelError):
        value(text, own)
    assert "wrong" in Rule(parse(text), "wrong", None).complaint(own)


def test_a_rule_explains_itself_by_the_value() -> None:
    rule = Rule(parse("self == 'a'"), "wrong", parse("'write a and not ' + self"))
    assert (rule.complaint("a"), rule.complaint("b")) == ("", "write a and not b")
    assert Rule(parse("self == 'a'"), "wrong", None).complaint("b") == "wrong"
