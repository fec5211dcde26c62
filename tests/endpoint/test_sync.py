"""Claims of the endpoint channel, in the deterministic world: lossy, reordering, duplicating, restarting."""

import random
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from service.endpoint.message import (
    BATCH_BYTES_MAX,
    Acks,
    LocationRow,
    Rows,
    decode,
    encode,
    encode_row,
    encode_rows,
)
from service.endpoint.sync import (
    GONE_NS,
    RETIRED_NS,
    Acknowledged,
    EndpointAnnounced,
    EndpointSync,
    EndpointWithdrawn,
    LocationHeard,
)
from service.model.assignment import Location
from service.model.endpoint import Endpoint
from service.model.errors import InvariantError, PeerError
from service.model.lease import Token
from service.model.machine import Address, Send, Source
from tests.simulation.world import MS, SECOND, Link, Node, World

QUIET = Link()
LOSSY = Link(loss=0.3, duplication=0.2, delay_ns_min=100_000, delay_ns_max=20 * MS)
FLOATING_IP = IPv4Address("192.0.2.100")


def pod(number: int) -> IPv4Address:
    return IPv4Address("10.1.0.0") + number


def endpoint(node: str, number: int, sequence: int = 1, policies: int = 1) -> Endpoint:
    return Endpoint(
        pod_ip=pod(number),
        pod_uid=f"8d5a4f4e-0000-4000-8000-{number:012d}",
        node=node,
        macs=(b"\x02\x00\x00\x00\x00\x01",),
        rule_set=(1 << 64) - number - 1,
        policies=tuple((1 << 63) + n for n in range(policies)),
        sequence=sequence,
    )


class Site:
    """Agents with a table each, as their datapath would have it. An installed row is confirmed at once by default."""

    def __init__(self, seed: int | str = 1, *, link: Link = QUIET, nodes: Iterable[str] = ("a", "b", "c")) -> None:
        self.world = World(seed, link=link)
        self.world.on_output = self._execute
        self.world.on_send = self._watch
        self.tables: dict[str, dict[tuple[str, IPv4Address], Endpoint]] = {}
        self.lives: dict[str, int] = {}
        self.slow: set[str] = set()
        """Nodes that do not confirm."""
        self.largest = 0
        for name in nodes:
            self.tables[name] = {}
            self.start(name)
        for name in nodes:
            self.meet(name)

    def address(self, name: str) -> Address:
        return Address(f"198.51.100.{ord(name)}", 9641)

    def start(self, name: str) -> None:
        life = self.lives[name] = self.lives.get(name, 0) + 1
        machine = EndpointSync(node=name, start_id=1000 * ord(name) + life, now_ns=self.world.now_ns)
        self.world.add(name, self.address(name), machine, start_id=1000 * ord(name) + life)

    def meet(self, name: str) -> None:
        for other in self.lives:
            self.machine(name).set_peer(other, self.address(other), now_ns=self.world.now_ns)
        self.settle(name)

    def restart(self, name: str) -> None:
        """The agent process is replaced; the node's datapath (its table) outlives it."""
        self.start(name)
        for other in self.lives:
            if left := list(self.held(name, of=other)):
                self.machine(name).adopt(other, left, now_ns=self.world.now_ns)
        self.meet(name)

    def machine(self, name: str) -> EndpointSync:
        machine = self.world.nodes[name].machine
        assert isinstance(machine, EndpointSync)
        return machine

    def settle(self, name: str) -> None:
        self.world.settle(self.world.nodes[name])

    def announce(self, name: str, rows: dict[Endpoint, tuple[str, ...]]) -> None:
        self.machine(name).announce(
            {row.pod_ip: nodes for row, nodes in rows.items()},
            {row.pod_ip: row for row in rows},
            now_ns=self.world.now_ns,
        )
        self.settle(name)

    def locate(self, name: str, token: Token, nodes: tuple[str, ...]) -> None:
        self.machine(name).locate(Location(FLOATING_IP, name, token), nodes, now_ns=self.world.now_ns)
        self.settle(name)

    def held(self, name: str, of: str) -> dict[IPv4Address, Endpoint]:
        return {pod_ip: row for (node, pod_ip), row in self.tables[name].items() if node == of}

    def run(self, seconds: float) -> None:
        self.world.run_for(int(seconds * SECOND))

    def _execute(self, node: Node, output: object) -> None:
        table = self.tables[node.name]
        if isinstance(output, EndpointAnnounced):
            row = output.endpoint
            table[row.node, row.pod_ip] = row
            if node.name not in self.slow:
                self.machine(node.name).confirm(row.node, row.pod_ip, output.revision, now_ns=self.world.now_ns)
                self.world.after(0, lambda: self.settle(node.name))
        elif isinstance(output, EndpointWithdrawn):
            del table[output.node, output.pod_ip]

    def _watch(self, node: Node, send: Send) -> None:
        self.largest = max(self.largest, len(send.payload))


def outputs(site: Site, kind: type) -> list[object]:
    return [output for _, _, output in site.world.outputs(kind)]


def test_an_endpoint_reaches_exactly_its_targets_and_is_acknowledged_within_a_round_trip() -> None:
    site = Site()
    row = endpoint("a", 1)
    site.run(0.5)
    site.announce("a", {row: ("b",)})
    assert site.machine("a").acknowledged(row.pod_ip) == ()
    site.run(0.002)
    assert site.machine("a").acknowledged(row.pod_ip) == ("b",)
    assert outputs(site, Acknowledged) == [Acknowledged(row.pod_ip, "b")]
    assert (site.held("b", of="a"), site.held("c", of="a")) == ({row.pod_ip: row}, {})


def test_every_field_survives_the_wire() -> None:
    site = Site()
    row = replace(endpoint("a", 7, policies=12), macs=(b"\x02" * 6, b"\x04" * 6), sequence=(1 << 63) + 5)
    site.announce("a", {row: ("b",)})
    site.run(0.1)
    assert site.held("b", of="a")[row.pod_ip] == row


def test_targets_given_as_sets_and_the_node_itself_are_fine() -> None:
    site = Site()
    row = endpoint("a", 1)
    site.machine("a").announce({row.pod_ip: {"c", "a", "b"}}, {row.pod_ip: row}, now_ns=0)
    site.settle("a")
    site.run(0.1)
    assert site.machine("a").acknowledged(row.pod_ip) == ("b", "c")


def test_nothing_is_acknowledged_before_it_is_installed() -> None:
    site = Site()
    site.slow.add("b")
    row = endpoint("a", 1)
    site.announce("a", {row: ("b",)})
    site.run(5)
    assert site.machine("a").acknowledged(row.pod_ip) == ()
    first, *again = outputs(site, EndpointAnnounced)
    assert isinstance(first, EndpointAnnounced)
    assert again == [first] * len(again)
    assert len(again) >= 3, "whoever was to install it may have failed: it is said as often as it is asked for"
    announced = first
    site.machine("b").confirm("a", row.pod_ip, announced.revision, now_ns=site.world.now_ns)
    site.settle("b")
    site.run(0.01)
    assert site.machine("a").acknowledged(row.pod_ip) == ("b",)


def test_only_the_current_version_counts_as_acknowledged() -> None:
    site = Site()
    site.announce("a", {endpoint("a", 1): ("b",)})
    site.run(0.1)
    site.slow.add("b")
    newer = endpoint("a", 1, sequence=2)
    site.announce("a", {newer: ("b",)})
    site.run(0.1)
    assert site.machine("a").acknowledged(newer.pod_ip) == ()
    first, second = dict.fromkeys(outputs(site, EndpointAnnounced))
    assert isinstance(first, EndpointAnnounced)
    assert isinstance(second, EndpointAnnounced)
    for announced, expected in ((first, ()), (second, ("b",))):
        site.machine("b").confirm("a", newer.pod_ip, announced.revision, now_ns=site.world.now_ns)
        site.settle("b")
        site.run(0.01)
        assert site.machine("a").acknowledged(newer.pod_ip) == expected


def test_an_unchanged_announcement_sends_nothing() -> None:
    site = Site()
    rows = {endpoint("a", number): ("b", "c") for number in range(50)}
    site.announce("a", rows)
    site.run(0.5)
    sent = site.world.nodes["a"].sent
    site.announce("a", dict(rows))
    assert site.world.nodes["a"].sent == sent


def test_an_idle_pair_exchanges_two_datagrams_a_second() -> None:
    site = Site(nodes=("a", "b"))
    site.announce("a", {endpoint("a", 1): ("b",)})
    site.run(5)
    before = sum(node.sent for node in site.world.nodes.values())
    site.run(10)
    assert 18 <= sum(node.sent for node in site.world.nodes.values()) - before <= 42


def test_nodes_that_share_nothing_are_silent() -> None:
    site = Site()
    site.run(1)
    sent = sum(node.sent for node in site.world.nodes.values())
    site.run(60)
    assert sum(node.sent for node in site.world.nodes.values()) == sent


def test_a_row_no_longer_wanted_is_withdrawn() -> None:
    site = Site()
    row, other = endpoint("a", 1), endpoint("a", 2)
    site.announce("a", {row: ("b", "c"), other: ("b",)})
    site.run(0.1)
    site.announce("a", {row: ("c",), other: ("b",)})
    site.run(0.1)
    assert (list(site.held("b", of="a")), list(site.held("c", of="a"))) == ([other.pod_ip], [row.pod_ip])
    assert site.machine("a").acknowledged(row.pod_ip) == ("c",)
    assert site.machine("a").counts().pending == 0


def test_a_row_wanted_again_after_its_withdrawal_comes_back() -> None:
    site = Site(link=LOSSY)
    row = endpoint("a", 1)
    for _ in range(5):
        site.announce("a", {row: ("b",)})
        site.announce("a", {})
    site.announce("a", {row: ("b",)})
    site.run(5)
    assert site.held("b", of="a") == {row.pod_ip: row}
    assert site.machine("a").acknowledged(row.pod_ip) == ("b",)


def test_batches_stay_within_the_datagram_and_a_giant_goes_alone() -> None:
    site = Site()
    site.announce("a", {endpoint("a", number, policies=1 + number % 9): ("b",) for number in range(400)})
    site.run(0.5)
    assert len(site.held("b", of="a")) == 400
    assert site.largest <= BATCH_BYTES_MAX
    giant = endpoint("a", 999, policies=300)
    site.announce("a", {giant: ("b",)})
    site.run(0.5)
    assert site.held("b", of="a") == {giant.pod_ip: giant}
    assert site.largest > BATCH_BYTES_MAX


def test_a_thousand_rows_arrive_without_a_storm() -> None:
    site = Site(nodes=("a", "b"), link=LOSSY)
    site.announce("a", {endpoint("a", number): ("b",) for number in range(1000)})
    site.run(10)
    assert len(site.held("b", of="a")) == 1000
    assert site.world.nodes["a"].sent < 1000


def test_unacknowledged_rows_are_resent_with_growing_intervals() -> None:
    site = Site(nodes=("a", "b"))
    site.run(0.1)
    site.slow.add("b")
    times: list[int] = []
    site.world.on_send = lambda node, send: times.append(site.world.now_ns) if _is_rows(send) else None
    start_ns = site.world.now_ns
    site.announce("a", {endpoint("a", 1): ("b",)})
    site.run(4)
    assert [(when - start_ns) // MS for when in times[:7]] == [0, 50, 150, 350, 750, 1550, 2550]


def test_a_silent_peer_costs_one_datagram_a_second() -> None:
    site = Site(nodes=("a", "b"))
    site.world.stop("b")
    site.announce("a", {endpoint("a", number): ("b",) for number in range(2000)})
    site.run(10)
    sent = site.world.nodes["a"].sent
    site.run(20)
    # One of rows and one status each second.
    assert site.world.nodes["a"].sent - sent <= 42


def _is_rows(send: Send) -> bool:
    return isinstance(decode(send.payload), Rows)


def test_a_restarted_receiver_is_told_everything_and_steering_need_not_stop() -> None:
    site = Site()
    rows = {endpoint("a", number): ("b",) for number in range(30)}
    site.announce("a", rows)
    site.run(1)
    site.tables["b"].clear()
    site.restart("b")
    assert site.machine("a").acknowledged(pod(3)) == ("b",)
    site.run(0.05)
    assert len(site.held("b", of="a")) == 30
    assert site.machine("a").counts().pending == 0
    assert len(outputs(site, Acknowledged)) == 30


def test_rows_of_a_former_life_stay_until_the_new_one_has_said_everything() -> None:
    site = Site()
    kept, gone = endpoint("a", 1), endpoint("a", 2)
    site.announce("a", {kept: ("b",), gone: ("b", "c")})
    site.run(1)
    site.restart("a")
    site.run(20)
    assert len(site.held("b", of="a")) == 2, "nothing was announced yet, so absence means nothing"
    site.announce("a", {kept: ("b",)})
    site.run(4)
    assert len(site.held("b", of="a")) == 2
    site.run(3)
    assert list(site.held("b", of="a")) == [kept.pod_ip]
    assert site.held("c", of="a") == {}, "also where the new life has nothing to say"


def test_a_restarted_node_gets_no_acknowledgement_of_its_former_rows() -> None:
    machine = EndpointSync(node="a", start_id=2, now_ns=0)
    machine.set_peer("b", Address("198.51.100.2", 9641), now_ns=0)
    row = endpoint("a", 1)
    machine.announce({row.pod_ip: ("b",)}, {row.pod_ip: row}, now_ns=0)
    revisions = tuple(range(1, 20))
    source = Source(Address("198.51.100.2", 9641), "b", 9)
    machine.receive(source, encode(Acks(1, revisions)), now_ns=1)
    assert machine.acknowledged(row.pod_ip) == ()
    machine.receive(source, encode(Acks(2, revisions)), now_ns=2)
    assert machine.acknowledged(row.pod_ip) == ("b",)


def test_late_datagrams_of_a_former_life_are_refused() -> None:
    machine = EndpointSync(node="b", start_id=9, now_ns=0)
    address = Address("198.51.100.1", 9641)
    for start_id in (1, 2):
        machine.receive(Source(address, "a", start_id), encode_rows(1, []), now_ns=1)
    with pytest.raises(PeerError, match="former life"):
        machine.receive(Source(address, "a", 1), encode_rows(99, []), now_ns=2)


def test_a_life_mistaken_for_a_former_one_is_believed_when_the_other_falls_silent() -> None:
    machine = EndpointSync(node="b", start_id=9, now_ns=0)
    address = Address("198.51.100.1", 9641)
    for start_id in (2, 1):
        machine.receive(Source(address, "a", start_id), encode_rows(1, []), now_ns=1)
    with pytest.raises(PeerError, match="former life"):
        machine.receive(Source(address, "a", 2), encode_rows(1, []), now_ns=2)
    machine.receive(Source(address, "a", 2), encode_rows(1, []), now_ns=RETIRED_NS + 1)
    with pytest.raises(PeerError, match="former life"):
        machine.receive(Source(address, "a", 1), encode_rows(1, []), now_ns=RETIRED_NS + 2)


def test_a_divergence_is_found_and_repaired() -> None:
    site = Site()
    rows = {endpoint("a", number): ("b",) for number in range(5)}
    site.announce("a", rows)
    site.run(2)
    # The receiver loses a row and keeps one it should not have, without either side noticing.
    inbox = site.machine("b")._peers["a"].inbox
    inbox._forget(int(pod(2)))
    del site.tables["b"]["a", pod(2)]
    site.run(3)
    assert set(site.held("b", of="a")) == {row.pod_ip for row in rows}


def test_a_row_that_should_not_be_there_goes_with_the_next_epoch() -> None:
    site = Site()
    kept = endpoint("a", 1)
    extra = endpoint("a", 2)
    site.announce("a", {kept: ("b",), extra: ("b",)})
    site.run(2)
    outbox = site.machine("a")._peers["b"].outbox
    outbox._remove(outbox._endpoints, int(extra.pod_ip))
    site.run(3)
    assert list(site.held("b", of="a")) == [kept.pod_ip]


def test_the_rows_of_a_gone_node_outlast_a_mistaken_verdict() -> None:
    site = Site(nodes=("a", "b"))
    site.announce("a", {endpoint("a", 1): ("b",)})
    site.run(1)
    site.world.cut(["a"], ["b"])
    for name, other in (("a", "b"), ("b", "a")):
        site.machine(name).set_peer(other, None, now_ns=site.world.now_ns)
        site.settle(name)
    assert site.machine("a").acknowledged(pod(1)) == ()
    site.run(20)
    assert len(site.held("b", of="a")) == 1
    site.world.heal()
    site.meet("a")
    site.meet("b")
    site.run(0.5)
    assert site.machine("a").acknowledged(pod(1)) == ("b",)
    assert outputs(site, EndpointWithdrawn) == []


def test_the_rows_of_a_node_gone_for_good_are_withdrawn_and_it_is_forgotten() -> None:
    site = Site(nodes=("a", "b"))
    site.announce("a", {endpoint("a", 1): ("b",)})
    site.run(1)
    site.world.stop("a")
    site.machine("b").set_peer("a", None, now_ns=site.world.now_ns)
    site.settle("b")
    site.run(GONE_NS / SECOND + 1)
    assert outputs(site, EndpointWithdrawn) == [EndpointWithdrawn("a", pod(1))]
    assert site.machine("b")._peers == {}
    assert site.machine("b").deadline_ns() is None


def test_changes_made_while_a_peer_is_away_reach_it_on_its_return() -> None:
    site = Site(nodes=("a", "b"))
    site.announce("a", {endpoint("a", 1): ("b",), endpoint("a", 2): ("b",)})
    site.run(1)
    site.machine("a").set_peer("b", None, now_ns=site.world.now_ns)
    site.announce("a", {endpoint("a", 2): ("b",), endpoint("a", 3): ("b",)})
    site.run(5)
    site.meet("a")
    site.run(2)
    assert set(site.held("b", of="a")) == {pod(2), pod(3)}


def test_a_target_that_is_no_peer_yet_is_told_when_it_comes() -> None:
    site = Site(nodes=("a",))
    site.announce("a", {endpoint("a", 1): ("b",)})
    site.run(5)
    site.tables["b"] = {}
    site.start("b")
    site.meet("b")
    site.meet("a")
    site.run(0.1)
    assert site.machine("a").acknowledged(pod(1)) == ("b",)


def test_a_new_holders_word_arrives_once_and_stops_being_sent() -> None:
    site = Site(seed=3, link=LOSSY)
    site.locate("a", Token(1, 2, 3), ("b", "c", "a", "unknown"))
    site.run(5)
    heard = [LocationHeard(Location(FLOATING_IP, "a", Token(1, 2, 3)))] * 2
    assert outputs(site, LocationHeard) == heard
    assert site.machine("a").counts().pending == 0


def test_a_location_overtakes_the_rows_under_way_and_the_newest_wins() -> None:
    site = Site(nodes=("a", "b"))
    site.world.cut(["a"], ["b"])
    site.announce("a", {endpoint("a", number): ("b",) for number in range(300)})
    site.locate("a", Token(1, 1, 1), ("b",))
    site.locate("a", Token(2, 1, 1), ("b",))
    site.locate("a", Token(1, 9, 9), ("b",))
    site.world.heal()
    sent: list[Send] = []
    site.world.on_send = lambda node, send: sent.append(send) if node.name == "a" and _is_rows(send) else None
    site.run(2)
    first = decode(sent[0].payload)
    assert isinstance(first, Rows)
    assert type(first.rows[0]).__name__ == "LocationRow"
    assert outputs(site, LocationHeard) == [LocationHeard(Location(FLOATING_IP, "a", Token(2, 1, 1)))]


def test_what_was_withdrawn_while_the_receiver_was_away_leaves_its_datapath() -> None:
    site = Site(nodes=("a", "b"))
    kept, gone = endpoint("a", 1), endpoint("a", 2)
    site.announce("a", {kept: ("b",), gone: ("b",)})
    site.run(1)
    site.world.stop("b")
    site.machine("a").set_peer("b", None, now_ns=site.world.now_ns)
    site.announce("a", {kept: ("b",)})
    site.meet("a")
    site.restart("b")
    site.run(7)
    assert list(site.held("b", of="a")) == [kept.pod_ip]


def test_rows_left_by_a_node_that_never_returns_are_withdrawn() -> None:
    site = Site(nodes=("b",))
    site.tables["b"]["a", pod(1)] = endpoint("a", 1)
    site.machine("b").adopt("a", [pod(1)], now_ns=0)
    site.settle("b")
    site.run(GONE_NS / SECOND - 1)
    assert len(site.held("b", of="a")) == 1
    site.run(2)
    assert site.held("b", of="a") == {}


def test_speaking_for_others_is_a_bug() -> None:
    machine = EndpointSync(node="a", start_id=1, now_ns=5)
    with pytest.raises(InvariantError):
        machine.announce({pod(1): ("b",)}, {pod(1): endpoint("b", 1)}, now_ns=5)
    with pytest.raises(InvariantError):
        machine.locate(Location(FLOATING_IP, "b", Token(1, 1, 1)), ("c",), now_ns=5)
    with pytest.raises(InvariantError):
        machine.advance(now_ns=4)


def test_malformed_datagrams_change_nothing() -> None:
    machine = EndpointSync(node="a", start_id=1, now_ns=0)
    source = Source(Address("198.51.100.2", 9641), "b", 9)
    # The first row is good, the second is not: the datagram is taken as a whole or not at all.
    payload = encode_rows(1, [encode_row(LocationRow(1, 5, 1, 1, 1)), b"\x93\x02\xff\x00"])
    with pytest.raises(PeerError):
        machine.receive(source, payload, now_ns=1)
    assert machine.counts() == (0, 0, 0, 0)
    assert machine.drain() == []
    with pytest.raises(PeerError, match="this node"):
        machine.receive(replace(source, node="a"), encode_rows(1, []), now_ns=1)


class Ordeal:
    """A site to which things happen, in an order drawn from a seed."""

    def __init__(self, seed: int, *, link: Link = LOSSY) -> None:
        self.site = Site(seed, link=link, nodes=("a", "b", "c", "d"))
        self.random = random.Random(seed)
        self.wanted: dict[str, dict[Endpoint, tuple[str, ...]]] = {name: {} for name in self.site.lives}
        self.sequence = 0

    def step(self, *, verdicts: bool) -> None:
        name = self.random.choice("abcd")
        other = self.random.choice([other for other in "abcd" if other != name])
        match self.random.randrange(12):
            case 0:
                self.site.restart(name)
                # A restarted agent announces what its node has now.
                self.site.announce(name, self.wanted[name])
            case 1:
                self.site.world.cut([name], [other], both_ways=self.random.random() < 0.5)
            case 2:
                self.site.world.heal()
            case 3 if verdicts:
                self.site.machine(name).set_peer(other, None, now_ns=self.site.world.now_ns)
                self.site.settle(name)
            case 4 if verdicts:
                self.site.meet(name)
            case _:
                self.change(name)
        self.site.run(self.random.random() * 2)

    def change(self, name: str) -> None:
        self.sequence += 1
        base = 100 * ord(name)
        numbers = self.random.sample(range(base, base + 12), self.random.randrange(12))
        targets = tuple(other for other in "abcd" if self.random.random() < 0.5)
        keep = {row: nodes for row, nodes in self.wanted[name].items() if self.random.random() < 0.6}
        taken = {row.pod_ip for row in keep}
        fresh = {endpoint(name, n, self.sequence): targets for n in numbers if pod(n) not in taken}
        self.wanted[name] = keep | fresh
        self.site.announce(name, self.wanted[name])

    def acknowledged_means_installed(self) -> None:
        for name, rows in self.wanted.items():
            for row in rows:
                for node in self.site.machine(name).acknowledged(row.pod_ip):
                    assert self.site.tables[node].get((name, row.pod_ip)) is not None

    def settle(self) -> None:
        self.site.world.heal()
        for name in "abcd":
            self.site.meet(name)
        self.site.run(40)


@pytest.mark.parametrize("verdicts", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_the_tables_converge(seed: int, verdicts: bool) -> None:
    ordeal = Ordeal(seed)
    site = ordeal.site
    if not verdicts:
        site.world.after_event = ordeal.acknowledged_means_installed
    for _ in range(60):
        ordeal.step(verdicts=verdicts)
    ordeal.settle()
    for name, rows in ordeal.wanted.items():
        for other in "abcd":
            if name != other:
                expected = {row.pod_ip: row for row, nodes in rows.items() if other in nodes}
                assert site.held(other, of=name) == expected, f"seed {seed}: {other} of {name}"
        for row, nodes in rows.items():
            assert site.machine(name).acknowledged(row.pod_ip) == tuple(n for n in sorted(nodes) if n != name)
        assert site.machine(name).counts().pending == 0


def test_one_seed_is_one_history() -> None:
    def history() -> str:
        site = Site("same", link=LOSSY)
        site.announce("a", {endpoint("a", number): ("b", "c") for number in range(40)})
        site.run(3)
        site.restart("b")
        site.run(3)
        return site.world.trace_hash()

    assert history() == history()
