"""What a keeper says before it lets go on purpose (rule R4), and to whom it listens before it speaks."""

import os
import random
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.datapath.bpf_map import create_map, open_pinned
from service.datapath.handover_row import handover_value, parse_handover
from service.datapath.layout import MAP_SHAPES, MapName
from service.keeper.handover import HANDOVER_NS, Handovers, TellingHolder, handover_frame
from service.lease.holder import CloseFence, DesiredClaim, Holder
from service.model.errors import TransientError
from service.model.keeper_message import Uplink
from service.model.lease import LEASE_PROFILES, Elector, Electorate, ProfileName, Stamp, Token
from service.network.bpf_call import pin

pytestmark = [pytest.mark.bpf, pytest.mark.root]

IP, OTHER = "192.0.2.100", "192.0.2.101"
TOKEN, NEXT = Token(7, 3, 1), Token(7, 4, 1)
MAC = "020000000001"
NOW_NS = 5_000_000_000


class Site:
    """The pins of a datapath, an uplink, and what leaves by it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: list[tuple[int, bytes]] = []
        self.done: list[str] = []
        self.now_ns = NOW_NS
        self.uplinks = {one: Uplink(one, "eth0", 3, MAC, True) for one in (IP, OTHER)}
        self.is_down = False
        self.handovers = Handovers(
            str(folder),
            uplink=self.uplinks.get,
            send_frame=self._send,
            clock=lambda: self.now_ns,
            pause=lambda span_s: self.done.append(f"pause {span_s}"),
        )

    def _send(self, ifindex: int, frame: bytes) -> None:
        if self.is_down:
            raise TransientError("interface 3: Network is down")
        self.done.append("frame")
        self.sent.append((ifindex, frame))

    def put(self, name: str, value: bytes) -> None:
        opened = open_pinned(str(self.folder / "v1" / name))
        opened.update(IPv4Address(IP).packed, value)
        opened.close()

    def rows(self, name: str = MapName.HANDOVERS) -> dict[bytes, bytes]:
        opened = open_pinned(str(self.folder / "v1" / name))
        found = opened.items()
        opened.close()
        return found


def make(folder: Path, name: str, value_size: int | None = None) -> None:
    shape = MAP_SHAPES[name]
    fd = create_map(shape.type, shape.key_size, value_size or shape.value_size, 64)
    pin(fd, str(folder / "v1" / name))
    os.close(fd)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Site]:
    """No map of a handover is there: the agent is of a former version."""
    folder = tmp_path / "bpf"
    folder.mkdir()
    subprocess.run(["mount", "-t", "bpf", "egwt", str(folder)], check=True, timeout=10)
    (folder / "v1").mkdir()
    yield Site(folder)
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


@pytest.fixture
def site(bare: Site) -> Site:
    make(bare.folder, MapName.HANDOVERS)
    make(bare.folder, MapName.TRUSTS)
    return bare


def ending(key: str = IP) -> CloseFence:
    return CloseFence(key, TOKEN, "released")


def test_row_and_frame_are_written_before_the_pause_which_is_one_for_all(site: Site) -> None:
    site.handovers.tell([ending(), ending(OTHER)])
    assert {key: parse_handover(value) for key, value in site.rows().items()} == {
        IPv4Address(one).packed: (TOKEN.packed(), NOW_NS) for one in (IP, OTHER)
    }
    assert site.done == ["frame", "frame", "pause 0.001"]
    assert [frame[:14] for _, frame in site.sent] == [b"\xff" * 6 + bytes.fromhex(MAC) + b"\x88\xb5"] * 2


def test_the_frame_is_as_the_programs_read_it_and_no_shorter_than_a_frame_may_be() -> None:
    frame = handover_frame(bytes.fromhex(MAC), IPv4Address(IP), TOKEN)
    assert frame[14:30] == bytes.fromhex("45474831") + IPv4Address(IP).packed + TOKEN.packed().to_bytes(8, "big")
    assert len(frame) == 60


def test_what_cannot_be_sent_costs_neither_the_row_nor_a_pause(site: Site) -> None:
    """Its carrier is lost, or it has no uplink there: its own pods wait all the same."""
    site.is_down = True
    site.handovers.tell([ending()])
    del site.uplinks[OTHER]
    site.handovers.tell([ending(OTHER)])
    assert len(site.rows()) == 2
    assert site.done == []


def test_without_the_map_nothing_is_told_and_nothing_is_awaited(bare: Site) -> None:
    bare.handovers.tell([ending()])
    assert bare.done == []
    assert not bare.handovers.is_awaited(IPv4Address(IP), NEXT)
    make(bare.folder, MapName.HANDOVERS, value_size=24)
    bare.handovers.tell([ending()])
    assert bare.done == []


def test_a_successor_waits_until_its_agent_has_vouched_for_the_rows_and_no_longer_than_packets_do(site: Site) -> None:
    address = IPv4Address(IP)
    assert not site.handovers.is_awaited(address, NEXT), "nobody has let go of it on purpose"
    site.put(MapName.HANDOVERS, handover_value(TOKEN.packed(), NOW_NS))
    assert site.handovers.is_awaited(address, NEXT)
    assert not site.handovers.is_awaited(address, TOKEN), "it is its own tenure that ended"
    site.now_ns += HANDOVER_NS
    assert not site.handovers.is_awaited(address, NEXT)
    site.now_ns = NOW_NS
    site.put(MapName.TRUSTS, NEXT.packed().to_bytes(8, "little"))
    assert not site.handovers.is_awaited(address, NEXT)


# ---- the holder ----


def holder() -> Holder:
    return Holder(
        node="a",
        boot_id="00000000-0000-0000-0000-000000000001",
        start_id=1,
        electorate=Electorate(1, (Elector("a", "192.0.2.1"),)),
        profile=LEASE_PROFILES[ProfileName.DEFAULT],
        lease_port=9644,
        random=random.Random(1),
        now_ns=0,
    )


@pytest.mark.parametrize("is_on_purpose", [True, False], ids=["given up", "expired"])
def test_what_is_let_go_of_on_purpose_is_told_before_its_fence_is_closed(is_on_purpose: bool) -> None:
    """What has expired is another's already: nobody may wait for that."""
    claimed = holder()
    told: list[CloseFence] = []
    machine = TellingHolder(claimed, told.extend)
    claimed.adopt(IP, TOKEN, 1_000_000_000, now_ns=0)
    claimed.set_claims({IP: DesiredClaim("holder", Stamp(7, 3))}, now_ns=1)
    machine.drain()
    assert told == []
    if is_on_purpose:
        claimed.set_claims({}, now_ns=2)
    else:
        machine.advance(now_ns=2_000_000_000)
    closed = [one for one in machine.drain() if isinstance(one, CloseFence)]
    assert [one.key for one in closed] == [IP]
    assert told == (closed if is_on_purpose else [])
