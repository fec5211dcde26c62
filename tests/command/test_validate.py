"""`egressgw validate`: what it refuses, and what it warns of."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.command import validate
from tests.command.invocation import invoke
from tests.kubernetes.bad_objects import gateway, policy

LISTING = gateway({"floatingIPs": ["192.168.1.100", "192.168.1.101"]})
OTHERS = {"egress": [{"podSelector": {"matchLabels": {"role": "backend"}}}]}


def write(path: Path, *documents: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return path


def test_every_error_is_listed_by_the_name_that_was_given(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "a.yaml", LISTING)
    write(folder / "b.yaml", policy("bad", egressSourceIP="x"))
    single = write(tmp_path / "single.yml", policy("many", egress=[{"podSelector": {}}] * 65))
    done = invoke("validate", folder, single)
    assert done.exit_code == 1
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{folder}/b.yaml: EgressNATPolicy bad: spec.egressSourceIP: 'x' is not an IP address")
    assert second == f"{single}: EgressNATPolicy many: spec.egress: 65 entries are too many: at most 64"
    assert done.stderr == "1 objects are valid, 2 errors\n"


def test_good_objects_are_quiet(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", LISTING, policy("web"))
    done = invoke("validate", tmp_path)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "2 objects are valid, 0 errors\n")


def test_json_is_read_too_whatever_the_files_name_ends_in(tmp_path: Path) -> None:
    for name in ("a.json", "a.txt", "#a"):
        (tmp_path / name).write_text(json.dumps(LISTING), encoding="utf-8")
        assert invoke("validate", tmp_path / name).exit_code == 0


def test_nothing_is_wrong_use(tmp_path: Path) -> None:
    assert invoke("validate", tmp_path / "absent").exit_code == 2


def test_definitions_that_are_not_there_are_wrong_use(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", LISTING)
    done = invoke("validate", tmp_path, "--crds", tmp_path / "absent")
    assert (done.exit_code, "no resource definitions" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("documents", "warning"),
    [
        (
            (LISTING, policy("typo", egressSourceIP="192.168.1.222")),
            "EgressNATPolicy typo: UnknownEgressIP: egressSourceIP 192.168.1.222 is not in spec.floatingIPs of",
        ),
        (
            (LISTING, policy("a"), policy("b", **OTHERS)),
            "EgressNATPolicy b: EgressIPConflict: egressSourceIP 192.168.1.100 belongs to the older policy a",
        ),
        (
            (LISTING, policy("a"), policy("b", egressSourceIP="192.168.1.101")),
            "EgressNATPolicy b: decides nothing: all its pods and destinations go by a",
        ),
        ((policy("a"),), "no AnthosNetworkGateway is among these objects"),
        (
            (LISTING, policy("a", excludedCIDRs=["9.9.9.9/32"])),
            "EgressNATPolicy a: excludedCIDRs: 9.9.9.9/32 lies in none of destinationCIDRs, and does nothing",
        ),
        (
            (LISTING, policy("a", destinationCIDRs=["192.168.1.0/24"])),
            "EgressNATPolicy a: PartlyExempt: of destinationCIDRs these are exempt: 192.168.1.100/32 (floating IP)",
        ),
        (
            (LISTING, policy("a", excludedCIDRs=["8.8.8.0/25", "8.8.8.128/25"])),
            "EgressNATPolicy a: AllExcluded: nothing is steered",
        ),
    ],
    ids=["unknown-address", "double", "shadow", "no-gateway", "idle-exclusion", "exempt", "all-excluded"],
)
def test_what_does_not_do_what_it_seems_to_is_warned_of(
    tmp_path: Path, documents: tuple[dict[str, Any], ...], warning: str
) -> None:
    write(tmp_path / "a.yaml", *documents)
    done = invoke("validate", tmp_path)
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"warning: {warning}")
    assert done.stderr.endswith(", 0 errors, 1 warnings\n")


def test_w12_with_the_settings_the_clusters_ranges_are_known(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("node: a\ndatapath: {pod_cidrs: [10.244.0.0/16]}\n", encoding="utf-8")
    path = write(tmp_path / "a.yaml", LISTING, policy("a", destinationCIDRs=["10.244.7.0/24"]))
    assert invoke("validate", path).stdout == ""
    told = invoke("validate", path, "--config", config).stdout
    assert told.startswith("warning: EgressNATPolicy a: AllExempt: nothing is steered: all of destinationCIDRs is")
    assert "10.244.0.0/16 (pods)" in told


def test_warnings_are_of_all_that_is_given_together(tmp_path: Path) -> None:
    gateways, policies = write(tmp_path / "g.yaml", LISTING), write(tmp_path / "p.yaml", policy("web"))
    assert invoke("validate", gateways, policies).stdout == ""
    again = invoke("validate", gateways, policies, policies).stdout
    assert again == "warning: EgressNATPolicy web: defined twice; the first one counts here\n"


def test_the_command_is_one_of_ours() -> None:
    assert validate.validate.name == "validate"
    assert "API server" in invoke("validate", "--help").output
