"""The part of CEL that our resource definitions are written in, to judge an object as the API server would. Pure.

Syntax: `||`, `&&`, `!`, comparisons, `in`, `+`, members, calls, lists, texts and whole numbers. Functions: size, has,
all, exists_one, matches, and those of Kubernetes for addresses. What is not in this part is refused when it is parsed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)

_TOKEN = re.compile(r"\s*(?:(\d+)|('[^']*'|\"[^\"]*\")|([A-Za-z_]\w*)|(\|\||&&|==|!=|<=|>=|[-!<>+.,()\[\]]))")
_COMPARISONS: dict[str, Callable[[object, object], bool]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<=": lambda left, right: _number(left) <= _number(right),
    ">=": lambda left, right: _number(left) >= _number(right),
    "<": lambda left, right: _number(left) < _number(right),
    ">": lambda left, right: _number(left) > _number(right),
    "in": lambda left, right: left in _items(right),
}

Variables = Mapping[str, object]
Expression = Callable[[Variables], object]


class CelError(ValueError):
    """A text that is not in this part of CEL, or a value that an expression cannot be asked of."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `x-kubernetes-validations`."""

    holds: Expression
    message: str
    explain: Expression | None
    """Makes a message of the value, where there is one."""

    def complaint(self, value: object) -> str:
        """What is wrong with the value; empty where the rule holds."""
        variables = {"self": value}
        try:
            if self.holds(variables) is True:
                return ""
        except CelError as error:
            return f"{self.message} ({error})"
        return str(self.explain(variables)) if self.explain is not None else self.message


def parse(text: str) -> Expression:
    """Return what evaluates the expression. Raises CelError where it is not in this part of CEL."""
    parser = _Parser(_tokens(text))
    found = parser.alternative()
    if parser.next:
        raise CelError(f"{text}: {parser.next} is not expected")
    return found


def _tokens(text: str) -> list[str]:
    found, place = [], 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None:
            raise CelError(f"{text}: not understood from {text[place:]!r} on")
        found.append(match[0].strip())
        place = match.end()
    return found


class _Parser:
    """By recursive descent, one method to each level of binding."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens

    @property
    def next(self) -> str:
        return self._tokens[0] if self._tokens else ""

    def _take(self, expected: str = "") -> str:
        token = self.next
        if not token or (expected and token != expected):
            raise CelError(f"{expected or 'more'} is expected and not {token or 'the end'}")
        return self._tokens.pop(0)

    def alternative(self) -> Expression:
        found = self._conjunction()
        while self.next == "||":
            self._take()
            found = _either(found, self._conjunction())
        return found

    def _conjunction(self) -> Expression:
        found = self._relation()
        while self.next == "&&":
            self._take()
            found = _both(found, self._relation())
        return found

    def _relation(self) -> Expression:
        left = self._sum()
        if self.next not in _COMPARISONS:
            return left
        compare, right = _COMPARISONS[self._take()], self._sum()
        return lambda variables: compare(left(variables), right(variables))

    def _sum(self) -> Expression:
        found = self._negation()
        while self.next == "+":
            self._take()
            found = _concatenation(found, self._negation())
        return found

    def _negation(self) -> Expression:
        if self.next != "!":
            return self._member()
        self._take()
        operand = self._negation()
        return lambda variables: not _truth(operand(variables))

    def _member(self) -> Expression:
        found = self._primary()
        while self.next == ".":
            self._take()
            name = self._take()
            found = self._method(found, name) if self.next == "(" else _field(found, name)
        return found

    def _method(self, target: Expression, name: str) -> Expression:
        if name in _MACROS:
            self._take("(")
            variable = self._take()
            self._take(",")
            body = self.alternative()
            self._take(")")
            return _quantified(_MACROS[name], target, variable, body)
        return _call(name, [target, *self._arguments()])

    def _primary(self) -> Expression:
        token = self._take()
        if token == "(":
            found = self.alternative()
            self._take(")")
            return found
        if token == "[":
            return _list(self._until("]"))
        if token.isdecimal():
            return lambda _: int(token)
        if token[0] in "'\"":
            return lambda _: token[1:-1]
        if not token[0].isalpha():
            raise CelError(f"{token} is not expected")
        if token == "has" and self.next == "(":
            return _presence(self._arguments())
        return _call(token, self._arguments()) if self.next == "(" else _variable(token)

    def _arguments(self) -> list[Expression]:
        self._take("(")
        return self._until(")")

    def _until(self, end: str) -> list[Expression]:
        found: list[Expression] = []
        while self.next != end:
            if found:
                self._take(",")
            found.append(self.alternative())
        self._take(end)
        return found


# -- evaluation --


def _either(left: Expression, right: Expression) -> Expression:
    return lambda variables: _truth(left(variables)) or _truth(right(variables))


def _both(left: Expression, right: Expression) -> Expression:
    return lambda variables: _truth(left(variables)) and _truth(right(variables))


def _concatenation(left: Expression, right: Expression) -> Expression:
    return lambda variables: _text(left(variables)) + _text(right(variables))


def _list(items: list[Expression]) -> Expression:
    return lambda variables: [item(variables) for item in items]


def _variable(name: str) -> Expression:
    def value(variables: Variables) -> object:
        if name not in variables:
            raise CelError(f"{name} is not known")
        return variables[name]

    return value


def _field(target: Expression, name: str) -> Expression:
    def value(variables: Variables) -> object:
        holder = target(variables)
        if not isinstance(holder, Mapping) or name not in holder:
            raise _NoSuchFieldError(f"no field {name}")
        return holder[name]

    return value


class _NoSuchFieldError(CelError):
    """What `has` asks for."""


def _presence(arguments: list[Expression]) -> Expression:
    (asked,) = arguments

    def is_there(variables: Variables) -> bool:
        try:
            asked(variables)
        except _NoSuchFieldError:
            return False
        return True

    return is_there


_MACROS: dict[str, Callable[[list[bool]], bool]] = {"all": all, "exists_one": lambda found: sum(found) == 1}


def _quantified(judge: Callable[[list[bool]], bool], target: Expression, name: str, body: Expression) -> Expression:
    def value(variables: Variables) -> bool:
        return judge([_truth(body({**variables, name: item})) for item in _items(target(variables))])

    return value


def _call(name: str, arguments: list[Expression]) -> Expression:
    if name not in _FUNCTIONS:
        raise CelError(f"the function {name} is not known")
    function = _FUNCTIONS[name]
    return lambda variables: function(*(argument(variables) for argument in arguments))


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise CelError(f"{value!r} is neither true nor false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise CelError(f"{value!r} is no text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise CelError(f"{value!r} is no number")
    return value


def _items(value: object) -> list[object]:
    if not isinstance(value, list | Mapping):
        raise CelError(f"{value!r} has no items")
    return list(value)


# -- functions --


def _size(value: object) -> int:
    if not isinstance(value, str | list | Mapping):
        raise CelError(f"{value!r} has no size")
    return len(value)


def _matches(value: object, pattern: object) -> bool:
    # Here `$` would also match in front of a last newline.
    return re.search(_text(pattern).replace("$", r"\Z"), _text(value), re.ASCII) is not None


def _parsed_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return None if "%" in text or (isinstance(found, IPv6Address) and found.ipv4_mapped is not None) else found


def _parsed_network(text: str) -> IPv4Interface | IPv6Interface | None:
    base, _, prefix = text.partition("/")
    if not (prefix.isascii() and prefix.isdecimal() and str(int(prefix)) == prefix) or _parsed_address(base) is None:
        return None
    try:
        return ip_interface(text)
    except ValueError:
        return None


def _address(value: object) -> IPv4Address | IPv6Address:
    found = value if isinstance(value, IPv4Address | IPv6Address) else _parsed_address(_text(value))
    if found is None:
        raise CelError(f"{value!r} is no address")
    return found


def _network(value: object) -> IPv4Interface | IPv6Interface:
    found = value if isinstance(value, IPv4Interface | IPv6Interface) else _parsed_network(_text(value))
    if found is None:
        raise CelError(f"{value!r} is no CIDR")
    return found


def _masked(value: object) -> IPv4Interface | IPv6Interface:
    network: IPv4Network | IPv6Network = _network(value).network
    return ip_interface(str(network))


def _is_global_unicast(value: object) -> bool:
    found = _address(value)
    is_broadcast = found == IPv4Address("255.255.255.255")
    return not (found.is_unspecified or found.is_loopback or found.is_multicast or found.is_link_local or is_broadcast)


_FUNCTIONS: dict[str, Callable[..., object]] = {
    "size": _size,
    "matches": _matches,
    "isIP": lambda value: _parsed_address(_text(value)) is not None,
    "isCIDR": lambda value: _parsed_network(_text(value)) is not None,
    # An interface is an address, too, so what `cidr` gives is told apart by its own kind.
    "ip": lambda value: _network(value).ip if isinstance(value, IPv4Interface | IPv6Interface) else _address(value),
    "cidr": _network,
    "masked": _masked,
    "family": lambda value: _address(value).version,
    "isGlobalUnicast": _is_global_unicast,
}
