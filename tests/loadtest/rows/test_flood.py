import contextlib

import pytest

from loadtest.rows import flood
from loadtest.rows.flood import QUOTA_MAX, lost_by_flood, measure_flood
from loadtest.rows.options import DatapathOptions, Sizes
from loadtest.variant import Site
from service.lab.namespace import namespaces_of
from service.settings import DatapathSettings


def test_a_flood_without_a_quota_is_larger_than_none_that_a_pod_may_have() -> None:
    assert QUOTA_MAX > Sizes().flood > DatapathSettings().flows_per_pod


@pytest.mark.root
def test_what_nothing_has_happened_to_is_not_lost(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "silent", lambda site: contextlib.nullcontext())
    lost, detail = lost_by_flood(site, site, 40, 100, lambda line: None)
    assert lost == 0
    assert detail["flood"]["sent"] == 200
    assert detail["connections"]["alive"] == {"idle": 20, "idle-server": 20}


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_idle_connections_live_through_a_small_flood(options: DatapathOptions) -> None:
    row = measure_flood(options, lambda line: None)
    assert [figure.value for figure in row.figures] == [0, 0]
    for part in row.detail.values():
        assert part["flood"]["sent"] == 2 * options.sizes.flood
        assert part["connections"]["alive"] == {"idle": 10, "idle-server": 10}
    assert namespaces_of(options.name + "g") == []
