from pathlib import Path

import pytest
import yaml

from loadtest import gateway
from loadtest.rows.edit import BASE, measure_edit, other_policy
from loadtest.rows.options import DatapathOptions
from service.lab.namespace import namespaces_of
from service.sources.manifests.source import load_folder


def test_the_other_policy_is_of_the_same_pods_and_of_another_address(tmp_path: Path) -> None:
    _, policy = gateway.manifests(BASE)
    other = other_policy()
    (tmp_path / "policies.yaml").write_text(yaml.safe_dump_all([policy, other]))
    objects, errors = load_folder(tmp_path)
    assert (len(objects), errors) == (2, ())
    assert other["spec"]["egress"] == policy["spec"]["egress"]
    assert other["spec"]["egressSourceIP"] != policy["spec"]["egressSourceIP"]
    assert other["metadata"]["name"] != policy["metadata"]["name"]
    assert not set(other["spec"]["destinationCIDRs"]) & set(policy["spec"]["destinationCIDRs"])


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_edits_are_made_under_a_stream_and_a_download(options: DatapathOptions) -> None:
    row = measure_edit(options, lambda line: None)
    lost, goes_on, pause = row.figures
    assert lost.value is not None
    assert goes_on.value == 1
    assert pause.value is not None
    assert pause.value > 0
    assert row.detail["stream"]["sent"] > 1000
    assert namespaces_of(options.name + "g") == []
