from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from service.web.leader_metric import GivenPortCollector


class Blocks:
    """Of a leader, until it leads no more."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {
            "192.0.2.100": {"blocks": {"worker2": 64, "worker1": 128}, "lacking": {"worker3": 7}, "unowned": 816},
            "192.0.2.101": {"blocks": {}, "lacking": {}, "unowned": 1008},
        }

    def status(self) -> dict[str, Any]:
        return self.rows


def test_a_leader_tells_which_node_has_and_lacks_how_many_blocks_of_each_address_and_nobody_else_does() -> None:
    blocks, registry = Blocks(), CollectorRegistry()
    registry.register(GivenPortCollector(blocks))

    def scraped() -> list[str]:
        return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]

    assert scraped() == [
        'egressgw_port_blocks_given{floating_ip="192.0.2.100",node="worker1"} 128.0',
        'egressgw_port_blocks_given{floating_ip="192.0.2.100",node="worker2"} 64.0',
        'egressgw_port_blocks_lacking{floating_ip="192.0.2.100",node="worker3"} 7.0',
        'egressgw_port_blocks_unowned{floating_ip="192.0.2.100"} 816.0',
        'egressgw_port_blocks_unowned{floating_ip="192.0.2.101"} 1008.0',
    ]
    blocks.rows = {}
    assert scraped() == []
