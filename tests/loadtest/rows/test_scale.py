from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from loadtest.rows.options import DatapathOptions, Sizes
from loadtest.rows.scale import FEW, MANY, measure_scale, policies
from service.lab.namespace import namespaces_of
from service.lab.plan import POD_CIDR
from service.sources.manifests.source import load_folder

COUNT = Sizes().policies


def test_the_policies_are_valid_and_each_is_alone_with_its_source_and_destination(tmp_path: Path) -> None:
    documents = policies(COUNT)
    (tmp_path / "many.yaml").write_text(yaml.safe_dump_all(documents[:10]))
    objects, errors = load_folder(tmp_path)
    assert (len(objects), errors) == (10, ())
    specs = [document["spec"] for document in documents]
    assert len({spec["egressSourceIP"] for spec in specs}) == COUNT
    networks = {IPv4Network(spec["destinationCIDRs"][0]) for spec in specs}
    assert len(networks) == COUNT
    assert not any(network.overlaps(POD_CIDR) for network in networks)


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_both_labs_are_measured_and_the_large_one_has_what_was_asked_for(options: DatapathOptions) -> None:
    row = measure_scale(options, lambda line: None)
    assert [figure.value is not None and figure.value > 0 for figure in row.figures] == [True] * 4
    assert "20 policies, 60 pods" in row.figures[0].title
    for one in row.detail["groups"]["veth"]:
        assert set(one["median"]) == {FEW, MANY}
    assert [namespaces_of(options.name + suffix) for suffix in "fm"] == [[], []]
