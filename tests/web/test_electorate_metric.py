from prometheus_client import CollectorRegistry, generate_latest

from service.web.electorate_metric import ElectorateCollector


def test_trouble_with_the_electorate_is_seen_from_outside_while_it_lasts() -> None:
    troubles = ["the electorate object names epoch 3, older than 4, which was accepted", ""]
    registry = CollectorRegistry()
    registry.register(ElectorateCollector(lambda: troubles.pop(0) if len(troubles) > 1 else troubles[0]))
    assert "egressgw_electorate_trouble 1.0" in generate_latest(registry).decode()
    assert "egressgw_electorate_trouble 0.0" in generate_latest(registry).decode()
