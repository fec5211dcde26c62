"""Does a rule of somebody else use our mark bit (rule W6)? Reads the words of `nft list ruleset` and `iptables-save`.

A rule uses a bit when it tests it under a mask, sets it, toggles it or clears it. A rule that assigns a whole value
without our bit is no conflict here: the guards catch what it would let escape. Connection marks are another field.
"""

import re
from collections.abc import Callable

_NUMBER = r"(0x[0-9a-f]+|\d+)"
_NFT_TEST_MASKED = re.compile(rf"(?<!set )(?:meta )?mark (?:and|&) {_NUMBER}(?:\)|\s)*(?:==|!=|\{{|@|vmap)")
_NFT_TEST = re.compile(rf"(?<!ct )(?:meta )mark (?:== |!= )?{_NUMBER}")
_NFT_ASSIGN = re.compile(r"meta mark set (.*)")
_NFT_OPERATION = re.compile(rf"(and|&|or|\||xor|\^) {_NUMBER}")
_IPTABLES_TEST = re.compile(rf"-m mark (?:! )?--mark {_NUMBER}(?:/{_NUMBER})?")
_IPTABLES_SET = re.compile(rf"-j MARK --set-xmark {_NUMBER}/{_NUMBER}")
_CONNECTION_TESTS = (
    re.compile(rf"ct mark (?:and|&) {_NUMBER}(?:\)|\s)*(?:==|!=|\{{|@|vmap)"),
    re.compile(rf"ct mark (?:== |!= )?{_NUMBER}"),
)
_CONNECTION_ASSIGN = re.compile(r"ct mark set (.*)")
_IPTABLES_CONNECTION_TEST = re.compile(rf"-m connmark (?:! )?--mark {_NUMBER}(?:/{_NUMBER})?")
_IPTABLES_CONNECTION_SET = re.compile(rf"-j CONNMARK --set-xmark {_NUMBER}/{_NUMBER}")
_ALL = 0xFFFFFFFF


def conflicting_lines(text: str, mark: int, used: Callable[[str], int], *, without_table: str = "") -> list[str]:
    """The rules that use the bit `mark` of what `used` reads, each with the table it is in, but for those of our own
    table."""
    found = []
    table = ""
    for line in text.splitlines():
        rule = line.strip()
        if rule.startswith(("table ", "*")):
            table = rule.strip("*{ ")
        elif "mark" in rule.lower() and used(rule) & mark and (not without_table or table.split()[-1] != without_table):
            found.append(f"{table}: {rule}")
    return found


def used_bits(rule: str) -> int:
    """The bits of the packet mark that one rule tests or changes."""
    bits = 0
    for match in _NFT_TEST_MASKED.finditer(rule):
        if not rule[: match.start()].endswith("ct "):
            bits |= _number(match[1])
    for match in _NFT_TEST.finditer(rule):
        bits |= _number(match[1])
    bits |= _iptables_bits(rule, _IPTABLES_TEST, _IPTABLES_SET)
    if assign := _NFT_ASSIGN.search(rule):
        bits |= _assigned_bits(assign[1], own="(?:meta )?mark")
    return bits & _ALL


def used_connection_bits(rule: str) -> int:
    """The bits of the connection mark that one rule tests or changes."""
    bits = _iptables_bits(rule, _IPTABLES_CONNECTION_TEST, _IPTABLES_CONNECTION_SET)
    for test in _CONNECTION_TESTS:
        for match in test.finditer(rule):
            bits |= _number(match[1])
    if assign := _CONNECTION_ASSIGN.search(rule):
        bits |= _assigned_bits(assign[1], own="ct mark")
    return bits & _ALL


def _iptables_bits(rule: str, test: re.Pattern[str], change: re.Pattern[str]) -> int:
    bits = 0
    for match in test.finditer(rule):
        mask = _number(match[2]) if match[2] else _ALL
        bits |= _number(match[1]) if mask == _ALL else mask
    for match in change.finditer(rule):
        value, mask = _number(match[1]), _number(match[2])
        # iptables clears the mask's bits and toggles the value's; with the whole mask that is an assignment.
        bits |= value if mask == _ALL else value | mask
    return bits


def _assigned_bits(expression: str, *, own: str) -> int:
    """`own`: how the field that is set is called. What is made of another one says nothing of bits that stay."""
    whole = re.match(_NUMBER, expression)
    if whole:
        return _number(whole[1])
    modifies = re.match(rf"\(*{own} ", expression) is not None
    bits = 0
    for operator, number in _NFT_OPERATION.findall(expression):
        if operator not in ("and", "&"):
            bits |= _number(number)
        elif modifies:
            bits |= ~_number(number)
    return bits


def _number(text: str) -> int:
    return int(text, 0)
