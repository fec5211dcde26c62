from loadtest.rows.options import DatapathOptions, Sizes
from service.settings import DatapathSettings


def test_a_run_has_five_rounds_and_the_sizes_of_the_goals() -> None:
    assert DatapathOptions().rounds == 5
    assert DatapathOptions().sizes == Sizes(policies=1000, pods=5000, connections=20_000, idle=2000, flood=1_000_000)


def test_what_fills_a_nodes_ports_is_within_a_pods_quota() -> None:
    assert Sizes().fill_flows < DatapathSettings().flows_per_pod
