import pytest

from loadtest.rows.new_pod import FIRST_OCTET, measure_new_pod
from loadtest.rows.options import DatapathOptions, Sizes
from service.lab.namespace import namespaces_of
from service.lab.plan import LAST_POD_OCTET


def test_each_new_pod_has_an_address_of_its_own() -> None:
    assert FIRST_OCTET + Sizes().new_pods <= LAST_POD_OCTET


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_new_pods_are_seen_with_the_right_source_alone(options: DatapathOptions) -> None:
    row = measure_new_pod(options, lambda line: None)
    p50, p99, wrong = row.figures
    assert len(row.detail["waits_ms"]) == 2
    assert p50.value is not None
    assert p99.value is not None
    assert 0 < p50.value <= p99.value
    assert wrong.value == 0
    assert namespaces_of(options.name + "g") == []
