"""The answer to a successor's poll: of which addresses it has every row (Q8), and which it holds anew. Pure."""

from collections.abc import Mapping
from ipaddress import IPv4Address

from service.port_block.leader_table import LeaderTable
from service.port_block.message import Poll


def answer_poll(
    tables: Mapping[IPv4Address, LeaderTable], node: str, poll: Poll
) -> tuple[tuple[int, ...], tuple[IPv4Address, ...]]:
    """Numbers of the addresses that are whole there, and addresses of which the node has another session than was
    known: it holds anew, and may have struck the rows that it was known to have (R3)."""
    whole, anew = [], []
    for number, session in zip(poll.floating_ips, poll.sessions, strict=True):
        table = tables.get(floating_ip := IPv4Address(number))
        view = table.gateways.get(node) if table is not None else None
        if table is None or view is None or view.session is None:
            continue
        if view.session != session:
            anew.append(floating_ip)
        elif table.is_complete and not view.pending:
            whole.append(number)
    return tuple(whole), tuple(anew)
