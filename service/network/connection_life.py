"""How long connection tracking remembers what is steered: never less than we do (rule B3). Pure text.

Where it forgot sooner, the next reply of a live flow would begin a connection of its own, which NetworkPolicy keeps
from a pod that nobody may connect to. Times are nft's `ct timeout` objects (nft(8), CT TIMEOUT), of all steered
connections alike: the longest that any rule set of this node has.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

from service.model.objects import FlowTimeouts
from service.network.destinations import TABLE
from service.network.planting import REPLY_BYTES

FORGOTTEN_GROUP = 9640
"""Of netfilter's log: replies of live flows that connection tracking has forgotten."""
FORGOTTEN_RATE = 1000
MARGIN_S = 60
"""What a flow is refreshed by may not reach connection tracking for a moment."""
_TCP, _UDP, _LIVES = "steered_tcp", "steered_udp", "lives"


@dataclass(frozen=True, slots=True)
class ConnectionLives:
    """In seconds, by state of a flow."""

    tcp_open_s: int = 7440
    tcp_new_s: int = 240
    tcp_closing_s: int = 240
    udp_s: int = 300
    udp_new_s: int = 120

    @classmethod
    def longest(cls, several: Iterable[FlowTimeouts]) -> "ConnectionLives":
        """Of these, state by state; at least one, and all of them say how long."""
        timeouts = (astuple(timeouts)[:5] for timeouts in several)
        return cls(*map(max, zip(*timeouts, strict=True)))


def definition(lives: ConnectionLives) -> str:
    """Both objects, and the chain that gives connections of flows their times, for within the table.

    Questions of DNS are many and short: theirs keep the kernel's times.
    """
    opened, new, closing = (seconds + MARGIN_S for seconds in (lives.tcp_open_s, lives.tcp_new_s, lives.tcp_closing_s))
    # Half closed, or seen by one side for a while, a connection is as open as any.
    tcp = dict.fromkeys(("established", "fin_wait", "close_wait", "retrans", "unack"), opened)
    tcp |= dict.fromkeys(("syn_sent", "syn_recv"), new) | dict.fromkeys(("last_ack", "time_wait", "close"), closing)
    udp = {"unreplied": lives.udp_new_s + MARGIN_S, "replied": lives.udp_s + MARGIN_S}
    return f"""  ct timeout {_TCP} {{ protocol tcp; l3proto ip; policy = {{ {_policy(tcp)} }}; }}
  ct timeout {_UDP} {{ protocol udp; l3proto ip; policy = {{ {_policy(udp)} }}; }}
  chain {_LIVES} {{
    meta l4proto tcp ct timeout set "{_TCP}"
    udp dport != 53 ct timeout set "{_UDP}"
  }}"""


def replacement(lives: ConnectionLives) -> str:
    """The same for a table that has them: connections that are there keep the times they have."""
    return f"""flush chain ip {TABLE} {_LIVES}
delete ct timeout ip {TABLE} {_TCP}
delete ct timeout ip {TABLE} {_UDP}
table ip {TABLE} {{
{definition(lives)}
}}
"""


def chain(steering_device: str, mark: int, connection_mark: int) -> str:
    """Who gets these times; and what a reply of ours begins gets our connection mark, so that the pod's side of it does
    not pass for an answer to somebody outside (rule D2).

    Such a reply is logged, so that the connection can be planted as the pod's. For new connections, behind connection
    tracking at -200: before, there is nothing to mark *(measured)*. Without a hook of its own, which costs each packet.
    """
    return f"""  chain steered_connections {{
    iifname "{steering_device}" limit rate {FORGOTTEN_RATE}/second log group {FORGOTTEN_GROUP} snaplen {REPLY_BYTES}
    iifname "{steering_device}" ct mark set ct mark | {connection_mark:#x} goto {_LIVES}
    meta mark & {mark:#x} == {mark:#x} goto {_LIVES}
  }}"""


def _policy(states: dict[str, int]) -> str:
    return ", ".join(f"{state} : {seconds}" for state, seconds in states.items())


DEFAULT = ConnectionLives()
"""For the lives that flows have by default."""
