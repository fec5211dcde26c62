"""A new key for all members, in three steps under traffic: nobody is cut off, no address moves."""

from pathlib import Path
from typing import Any

import pytest

from service.command.keys import differences
from service.lab.configuration import member_folder
from service.lab.fault import Fault
from service.wire.envelope import key_id
from tests.command.invocation import invoke
from tests.e2e.site import FLOATING_IPS, Site

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(240)]

FIRST = FLOATING_IPS[0]


def ids(path: Path) -> list[str]:
    return [key_id(bytes.fromhex(line)).hex() for line in path.read_text(encoding="ascii").split()]


def spread(site: Site, path: Path) -> None:
    """As an operator does it: one member after the other, and waiting until all of them say that they have it."""
    assert lagging(site, path) != []
    first, *_ = site.lab.plan.members
    for name in site.lab.plan.members:
        file = member_folder(site.lab.folder, name) / "keyring"
        draft = file.with_suffix(".new")
        draft.write_text(path.read_text(encoding="ascii"), encoding="ascii")
        draft.rename(file)
        if name == first:
            site.wait("the first to have it", lambda: not any(line.startswith(first) for line in lagging(site, path)))
    site.wait("all members to have it", lambda: lagging(site, path) == [])


def lagging(site: Site, path: Path) -> list[str]:
    return differences(ids(path), site.status(site.lab.plan.nodes[0].name))


def tokens(site: Site) -> dict[str, Any]:
    return {address: (row["holder"], row["token"]) for address, row in site.status()["floatingIPs"].items()}


def refusals(site: Site) -> list[str]:
    """Lines of all logs that tell of a datagram sealed with a key that its receiver has not."""
    logs = [path for name in site.lab.plan.members for path in member_folder(site.lab.folder, name).glob("*.log")]
    assert len(logs) >= len(site.lab.plan.members)
    lines = [line for path in logs for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [line for line in lines if "unknown-key" in line]


def test_three_steps_under_traffic_cut_nobody_off_and_move_no_address(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    path.write_text((member_folder(site.lab.folder, "control1") / "keyring").read_text(encoding="ascii"), "ascii")
    site.wait_whole()
    site.wait("all members to say which key they have", lambda: lagging(site, path) == [])
    (old,) = ids(path)
    before = tokens(site)
    pod = next(node.name for node in site.lab.plan.nodes if node.name != site.holder(FIRST))
    with site.stream(f"alice/frontend-{pod}", proto="tcp") as stream:
        for step in ("add", "use", "drop"):
            assert invoke("keys", step, "--keyring-file", path, "--unchecked").exit_code == 0
            spread(site, path)
        report = stream.report()
    assert (list(report["sources"]), report["broken"]) == ([FIRST], "")
    assert tokens(site) == before
    (new,) = ids(path)
    assert new != old
    # Whoever starts now has never had the old key: if any socket of another process sealed with it, it would tell.
    site.fault(pod, Fault.KILL)
    site.fault(pod, Fault.RESTART)
    site.wait_whole()
    site.wait("all members to have the new key alone", lambda: lagging(site, path) == [])
    site.wait_seen(f"alice/frontend-{pod}", FIRST)
    assert refusals(site) == []
