"""Two nodes' kernels and one address, for tests of single machines."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from service.model.lease import Token
from service.model.machine import Address, Send, Source
from service.port_block.message import Message, Receiver, decode, encode

IP = IPv4Address("192.0.2.100")
SECOND = 1_000_000_000
MS = 1_000_000
LEADER = Address("10.0.1.0", 9641)
HOSTS = {f"node{index}": Address(f"10.0.0.{index}", 9641) for index in range(4)}


@dataclass
class FakeKernel:
    """What a gateway reads from its kernel."""

    token: Token | None = None
    packets: dict[int, int] = field(default_factory=dict)

    def tenure(self, floating_ip: IPv4Address) -> Token | None:
        return self.token

    def last_packet_ns(self, floating_ip: IPv4Address, block: int) -> int | None:
        return self.packets.get(block)


def source(node: str, start_id: int = 1) -> Source:
    return Source(HOSTS.get(node, LEADER), node, start_id)


def say(machine: Any, receiver: Receiver, node: str, message: Message, *, now_ns: int) -> list[Any]:
    """Have a machine receive a message; returns what it puts out, sends decoded."""
    machine.receive(source(node), encode(receiver, message), now_ns=now_ns)
    return told(machine)


def told(machine: Any) -> list[Any]:
    """The outputs: a `Send` as the message that it carries."""
    return [_opened(output) if isinstance(output, Send) else output for output in machine.drain()]


def _opened(send: Send) -> Message:
    return decode(Receiver(send.payload[:2]), send.payload)


def of(kind: type, outputs: list[Any]) -> list[Any]:
    return [output for output in outputs if isinstance(output, kind)]
