"""Reading a document field by field. What is wrong is noted with the path of its field, and reading goes on."""

import reprlib
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from typing import Any

from service.model.errors import ObjectError

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60


def shown(value: object) -> str:
    """Write a value for a message, shortened; documents may be huge or refer to themselves."""
    return _repr.repr(value)


def plain(text: str) -> str:
    """Make text from a document fit for a log line: no control characters, not endless."""
    return text if text.isprintable() and len(text) <= 320 else shown(text)


class FieldReader:
    """Collects the errors of one object. Readers return None where they noted one, or where the field is absent."""

    def __init__(self, origin: str, kind: str, name: str) -> None:
        self._origin, self._kind, self._name = origin, plain(kind), plain(name)
        self.errors: list[ObjectError] = []

    def refuse(self, path: str, message: str) -> None:
        """Note an error at `path`, such as `spec.egress[0].podSelector`. Reading goes on, so that all are told."""
        self.errors.append(ObjectError(self._origin, self._kind, self._name, plain(path), message))

    def mapping(
        self, value: Any, path: str, *, known: Sequence[str] | None = None, what: str = "a mapping"
    ) -> dict[str, Any] | None:
        """Check that it is a mapping with text keys and, where `known` is given, with no other fields than those."""
        if not isinstance(value, dict):
            self.refuse(path, f"{what} is expected, not {shown(value)}")
            return None
        result = {}
        for key, item in value.items():
            if not isinstance(key, str):
                self.refuse(join(path, shown(key)), "a field name must be text; put it in quotes")
            elif known is not None and key not in known:
                self.refuse(join(path, key), f"unknown field; known here: {', '.join(known)}")
            else:
                result[key] = item
        return result

    def section(
        self, document: dict[str, Any], key: str, path: str, *, known: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Return a nested mapping, empty where it is absent or refused."""
        if key not in document:
            return {}
        return self.mapping(document[key], join(path, key), known=known) or {}

    def sequence(self, value: Any, path: str, what: str, *, minimum: int = 0) -> list[Any] | None:
        """Check that it is a list of `minimum` items or more; its items are the caller's to check."""
        if not isinstance(value, list):
            self.refuse(path, f"a list of {what} is expected, not {shown(value)}")
            return None
        if len(value) < minimum:
            self.refuse(path, f"at least {minimum} is needed: {what}")
            return None
        return value

    def text(self, value: Any, path: str, what: str) -> str | None:
        """Check that it is text. A number or a truth value is refused with a hint: YAML reads it as one unquoted."""
        if isinstance(value, str):
            return value
        hint = "; put it in quotes" if isinstance(value, bool | int | float) else ""
        self.refuse(path, f"{what} is expected as text, not {shown(value)}{hint}")
        return None

    def whole(self, value: Any, path: str, what: str, least: int, most: int) -> int | None:
        """Check that it is a whole number from `least` to `most`."""
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.refuse(path, f"{what} is expected, {least} to {most}, not {shown(value)}")
        return None

    def require(self, document: dict[str, Any], key: str, path: str, what: str) -> bool:
        """Note a missing field; say whether it is there."""
        if key not in document:
            self.refuse(join(path, key), f"required field is missing: {what}")
        return key in document

    def address(self, value: Any, path: str) -> IPv4Address | None:
        """Read one IPv4 address in dotted-quad form."""
        text = self.text(value, path, "an IPv4 address such as 192.168.1.100")
        if text is None:
            return None
        try:
            found = ip_address(text)
        except ValueError:
            self.refuse(path, f"{shown(text)} is not an IP address; write one such as 192.168.1.100")
            return None
        if isinstance(found, IPv6Address):
            self.refuse(path, f"{shown(text)} is an IPv6 address; only IPv4 is supported")
            return None
        return found

    def source_address(self, value: Any, path: str) -> IPv4Address | None:
        """Read an address that packets can come from: not loopback, multicast, link-local or reserved."""
        found = self.address(value, path)
        if found is None:
            return None
        for wrong, words in (
            (found.is_unspecified or found in _THIS_NETWORK, "not an address of a host"),
            (found.is_loopback, "a loopback address"),
            (found.is_multicast, "a multicast address"),
            (found.is_link_local, "a link-local address"),
            (found.is_reserved, "a reserved address"),
        ):
            if wrong:
                self.refuse(path, f"{found} is {words}; write a free address of the nodes' subnet")
                return None
        return found

    def network(self, value: Any, path: str) -> IPv4Network | None:
        """Read one CIDR `address/prefix` without host bits."""
        text = self.text(value, path, "a CIDR such as 8.8.8.0/24")
        if text is None:
            return None
        base, slash, prefix = text.partition("/")
        # The library would also take a bare address and a netmask; Kubernetes takes neither.
        if slash and not (prefix.isascii() and prefix.isdigit()):
            self.refuse(path, f"{shown(text)} is not a CIDR; write one such as 8.8.8.0/24")
            return None
        try:
            found = ip_network(text, strict=False)
        except ValueError:
            self.refuse(path, f"{shown(text)} is not a CIDR; write one such as 8.8.8.0/24")
            return None
        if not isinstance(found, IPv4Network):
            self.refuse(path, f"{shown(text)} is IPv6; only IPv4 is supported")
            return None
        if not slash:
            self.refuse(path, f"{shown(text)} has no prefix length; write {found}")
            return None
        if str(found.network_address) != base:
            self.refuse(path, f"{shown(text)} has host bits set; write {found}, or {base}/32 for the one host")
            return None
        return found

    def unique(self, values: Iterable[tuple[str, Any]]) -> list[Any]:
        """Note every value given again, naming its first place; return each value once."""
        first: dict[Any, str] = {}
        for path, value in values:
            if value in first:
                self.refuse(path, f"{value} is a duplicate of {first[value]}; remove one")
            else:
                first[value] = path
        return list(first)


_THIS_NETWORK = IPv4Network("0.0.0.0/8")


def join(path: str, key: str) -> str:
    """Return the path of a field; at the top of a document `path` is empty."""
    return f"{path}.{key}" if path else key
