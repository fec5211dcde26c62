"""Events choose by their seed, and undo what they do; on a site that keeps the commands instead of running them."""

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.chaos import outside
from loadtest.chaos.event import Event
from loadtest.chaos.events import CATALOGUE, links, netfilter, objects, pods, processes, segment, strangers
from loadtest.chaos.site import POLICY_FILE, ChaosSite
from loadtest.gateway import FLOATING_IPS
from service.lab.configuration import write_configuration
from service.lab.lab import Lab
from service.lab.plan import LabOptions
from service.lab.process import ProcessRecord
from service.lab.state import LabState
from service.settings import load_settings

MODULES = (links, netfilter, objects, pods, processes, segment, strangers)


class Site(ChaosSite):
    """Nothing is run: what would be is in `commands`, where it would be in front."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Lab(LabState(options=LabOptions(name="unbuilt"), host_settings={})))
        self.lab.folder = folder
        (folder / "manifests").mkdir()
        self.commands: list[tuple[str, ...]] = []
        self.ended_ones: list[tuple[str, str]] = []

    def on(self, place: str, *command: str, check: bool = True) -> str:
        self.commands.append((place, *command))
        return ""

    def records(self, member: str, kind: str = "") -> list[ProcessRecord]:
        return [ProcessRecord(kind, member, "", (), "", "", 1, 1)]

    def end(self, record: ProcessRecord, number: int, cause: str) -> None:
        self.ended_ones.append((record.kind, record.member))

    def restart(self, member: str) -> None:
        self.commands.append((member, "restart"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def made(site: Site, kind: type[Event], seed: int = 3) -> Event:
    return kind(site, random.Random(seed))


def played(site: Site, kind: type[Event]) -> list[tuple[str, ...]]:
    event = made(site, kind)
    event.apply()
    event.undo()
    return site.commands


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_same_seed_hurts_the_same_ones(site: Site, name: str) -> None:
    first, again = made(site, CATALOGUE[name]), made(site, CATALOGUE[name])
    assert first.node == again.node
    assert {made(site, CATALOGUE[name], seed).node.name for seed in range(40)} == {node.name for node in site.nodes}


def test_every_event_of_every_module_is_in_the_catalogue_under_a_name_of_its_own() -> None:
    events = [event for module in MODULES for event in module.EVENTS]
    assert len(events) == len(CATALOGUE) >= 47


@pytest.mark.parametrize(
    ("kind", "done", "undone"),
    [
        (links.CarrierLost, "down", "up"),
        (links.MtuChanged, "1400", "1500"),
        (links.SecondAddress, "add", "del"),
        (netfilter.ForwardDenied, "add table ip chaos", "delete table ip chaos"),
        (netfilter.InvalidDropped, "add table ip strict", "delete table ip strict"),
        (segment.SwitchForgets, "fdb_flush", "fdb_flush"),
        (netfilter.MarkSet, "meta mark set", "delete table ip marker"),
        (links.UnlikeMtus, "eth1 mtu 1300", "eth1 mtu 1500"),
        (links.SlowQueue, "qdisc add dev eth0 root tbf", "qdisc del dev eth0 root"),
        (links.VipOfMember, "address add 192.168.1.10", "address del 192.168.1.10"),
    ],
)
def test_what_is_done_at_a_place_is_undone_there(site: Site, kind: type[Event], done: str, undone: str) -> None:
    first, *_, last = played(site, kind)
    assert done in " ".join(first)
    assert undone in " ".join(last)
    assert first[0] == last[0]


@pytest.mark.parametrize("kind", [links.AddressLost, links.AllUplinksVanish])
def test_an_uplink_gets_its_own_address_and_its_routes_back(site: Site, kind: type[Event]) -> None:
    event = made(site, kind)
    commands = [" ".join(command) for command in played(site, kind)]
    assert any(f"address replace {event.node.address(0)}/24" in command for command in commands)
    assert sum("route replace" in command for command in commands) >= 3


def test_a_mac_is_another_one_and_then_its_own_again(site: Site) -> None:
    event = made(site, links.MacChanged)
    (*_, other), (*_, own) = played(site, links.MacChanged)
    assert own == event.node.mac(0) != other


@pytest.mark.parametrize("kind", [kind for kind in processes.EVENTS if kind.name.startswith(("kill", "restart"))])
def test_who_is_killed_is_started_again(site: Site, kind: type[Event]) -> None:
    played(site, kind)
    killed = {member for _, member in site.ended_ones}
    assert killed
    assert killed == {place for place, *command in site.commands if command == ["restart"]}


def policy_text(site: Site) -> str:
    path = site.lab.manifests / POLICY_FILE
    return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.mark.parametrize(
    ("kind", "is_seen"),
    [
        (objects.UnrelatedCidr, lambda text: "198.51.100.0/24" in text),
        (objects.PolicyAddressChanged, lambda text: FLOATING_IPS[1] in text),
        (objects.PolicyRemoved, lambda text: text == ""),
        (objects.ManyCidrs, lambda text: text.count("198.18.") == 250),
    ],
)
def test_a_policy_is_edited_and_then_as_it_was(site: Site, kind: type[Event], is_seen: Callable[[str], bool]) -> None:
    site.apply_policy()
    before = policy_text(site)
    event = made(site, kind)
    event.apply()
    assert is_seen(policy_text(site))
    event.undo()
    assert policy_text(site) == before


def test_an_edit_changes_what_is_expected_of_pods_only_where_the_source_is_another(site: Site) -> None:
    site.apply_policy()
    for kind in (objects.UnrelatedCidr, objects.PolicyAddressChanged):
        event = made(site, kind)
        event.apply()
        event.undo()
    assert [one.source for one in site.expectations] == [FLOATING_IPS[0], FLOATING_IPS[1], FLOATING_IPS[0]]


def test_bad_files_are_taken_away_again(site: Site) -> None:
    event = made(site, objects.BrokenFile)
    event.apply()
    assert {path.name for path in site.lab.manifests.glob("*.yaml")} == {"broken.yaml", "nonsense.yaml"}
    event.undo()
    event.undo()
    assert list(site.lab.manifests.glob("*.yaml")) == []


def test_what_waits_behind_the_fence_of_a_slow_uplink_is_no_word_of_its_node(site: Site) -> None:
    event = made(site, links.SlowQueue)
    assert event.strangers() == {(event.node.name, address) for address in FLOATING_IPS}


def test_a_majority_that_is_lost_leaves_one_to_say_so(site: Site) -> None:
    event: Any = made(site, processes.MajorityLost)
    assert event.trouble() == (event.node.name, "majority")
    assert {record.member for record in event.victims()} == {node.name for node in site.nodes} - {event.node.name}


def test_a_wrong_key_is_another_one_and_then_the_right_one_again(site: Site) -> None:
    event = made(site, processes.WrongKey)
    settings = write_configuration(site.lab.folder, site.lab.plan, event.node, "ab" * 32)
    event.apply()
    (wrong,) = load_settings(settings).keys()
    assert wrong != bytes.fromhex("ab" * 32)
    event.undo()
    assert load_settings(settings).keys() == (bytes.fromhex("ab" * 32),)
    assert site.commands == [(event.node.name, "restart")] * 2


@pytest.mark.parametrize("kind", [processes.DiskFull, processes.RunFull])
def test_a_disk_is_filled_to_the_last_block_and_cleared(site: Site, kind: type[processes.DiskFull]) -> None:
    event = made(site, kind)
    state = site.lab.folder / event.node.name / kind.folder
    state.mkdir(parents=True)
    # A file that takes nothing more, wherever it is opened.
    (state / "filling").symlink_to("/dev/full")
    event.apply()
    event.undo()
    assert list(state.iterdir()) == []


def test_recorded_datagrams_are_sent_again_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[bytes, str]] = []

    class Sender:
        def __init__(self, *arguments: int) -> None:
            pass

        def __enter__(self) -> "Sender":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def sendto(self, packet: bytes, destination: tuple[str, int]) -> None:
            sent.append((packet, destination[0]))

    monkeypatch.setattr(strangers.socket, "socket", Sender)
    packet = bytes(16) + bytes((192, 168, 1, 21)) + b"datagram"
    strangers._send_again([packet])
    assert sent == [(packet, "192.168.1.21")] * 3


def test_a_port_that_is_down_while_datagrams_are_recorded_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carrier was lost in the same round: the event failed, and with it the round."""
    address = bytes((192, 168, 1, 21))
    packet = b"\x45" + bytes(8) + bytes([17]) + bytes(6) + address + bytes(2) + (9640).to_bytes(2, "big") + b"datagram"
    come: list[bytes | OSError] = [OSError(errno.ENETDOWN, "Network is down"), TimeoutError(), bytes(14) + packet]

    class Listener:
        def __init__(self, *arguments: int) -> None:
            pass

        def __enter__(self) -> "Listener":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def bind(self, place: object) -> None:
            pass

        def settimeout(self, seconds: float) -> None:
            pass

        def recv(self, size: int) -> bytes:
            one = come.pop(0) if come else TimeoutError()
            if isinstance(one, OSError):
                raise one
            return one

    monkeypatch.setattr(strangers.socket, "socket", Listener)
    monkeypatch.setattr(strangers, "_GARBAGE_S", 0.01)
    assert strangers._record(address, "port") == [packet]


def test_the_far_end_has_ports_that_nobody_else_of_the_lab_has() -> None:
    assert len({outside.PUSH_PORT, outside.INBOUND_PORT, 8080, 8081, 9642}) == 5
