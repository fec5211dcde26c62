"""What a report of the lease keeper entails."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.agent.holdings import Difference, Holdings, Lost, Returns, compare
from service.audit.outbox import Origin, Outbox, read_outbox
from service.audit.recorder import AgentRecorder
from service.model.assignment import Assignment, Location
from service.model.audit_record import AuditRecord, RecordKind
from service.model.gateway_node import NodeState
from service.model.keeper_message import HeldLease, LeaseReport
from service.model.lease import Stamp, Token
from service.network.announcer import Announcer
from tests.agent.site import FLOATING_IP, SECOND
from tests.audit.log import write_outbox

OTHER = IPv4Address("192.168.1.101")


def lease(address: IPv4Address = FLOATING_IP, counter: int = 1, deadline_s: int = 100) -> HeldLease:
    return HeldLease(str(address), 4, 1, counter, deadline_s * SECOND)


def report(*held: HeldLease, released: Iterable[IPv4Address] = ()) -> LeaseReport:
    names = tuple(map(str, released))
    return LeaseReport(held=held, elector=True, voting=True, scheduling="fifo", majority=True, released=names)


def test_a_report_is_compared_with_the_one_before() -> None:
    held = {FLOATING_IP: lease(), OTHER: lease(OTHER)}
    assert compare(held, report(lease(), lease(OTHER))) == Difference((), ())
    assert compare({}, report(lease())) == Difference((lease(),), ())
    gone = compare(held, report(lease(), released=(OTHER,)))
    assert gone == Difference((), (Lost(lease(OTHER), is_released=True),))


def test_the_same_address_under_another_token_is_another_lease() -> None:
    assert compare({FLOATING_IP: lease()}, report(lease(counter=2))) == Difference((lease(counter=2),), ())
    assert compare({FLOATING_IP: lease()}, report(lease(deadline_s=999))) == Difference((), ())


@dataclass
class Site:
    """Holdings whose announcements and words are kept."""

    outbox: Outbox
    now_ns: int = 50 * SECOND
    told: list[Location] = field(default_factory=list)
    locations: dict[IPv4Address, Location] = field(default_factory=dict)
    up: tuple[str, ...] = ("worker2",)
    changes: int = 0

    def __post_init__(self) -> None:
        self.announced: list[tuple[str, IPv4Address]] = []
        rows = {FLOATING_IP: Assignment(FLOATING_IP, "worker2", "worker1", Stamp(4, 1))}
        self.holdings = Holdings(
            "worker1",
            clock=lambda: self.now_ns,
            announcer=_Announcer(self.announced),
            recorder=AgentRecorder(self.outbox, node="worker1"),
            assignments=lambda: rows,
            locations=lambda: self.locations,
            is_up=self.up.__contains__,
            tell=self.told.append,
            changed=self._change,
        )

    def _change(self) -> None:
        self.changes += 1


class _Announcer(Announcer):
    def __init__(self, announced: list[tuple[str, IPv4Address]]) -> None:
        self._announced = announced

    def start(self, floating_ip: IPv4Address) -> None:
        self._announced.append(("start", floating_ip))

    def stop(self, floating_ip: IPv4Address) -> None:
        self._announced.append(("stop", floating_ip))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    origin = Origin("worker1", "boot", component="agent")
    return Site(Outbox(tmp_path, origin, clock=lambda: (1, 1)))


def recorded(folder: Path, act: Callable[[Site], None]) -> list[AuditRecord]:
    """What is on record after these acts of a node's holdings."""
    write_outbox(folder, lambda outbox: act(Site(outbox)))
    return [record for record in read_outbox(folder) if isinstance(record, AuditRecord)]


def test_what_is_new_is_told_and_announced_at_once_and_what_stays_is_not(site: Site) -> None:
    site.holdings.take_report(report(lease()))
    site.holdings.take_report(report(lease()))
    assert site.told == [Location(FLOATING_IP, "worker1", Token(4, 1, 1))]
    assert site.announced == [("start", FLOATING_IP)]
    assert list(site.holdings.held) == [FLOATING_IP]
    assert site.changes == 1


def test_what_a_silent_keeper_held_ends_with_its_deadline_and_no_sooner(site: Site) -> None:
    site.holdings.take_report(report(lease(), lease(OTHER, deadline_s=60)))
    site.holdings.expire()
    assert list(site.holdings.held) == [FLOATING_IP, OTHER]
    site.now_ns = 60 * SECOND
    site.holdings.expire()
    assert list(site.holdings.held) == [FLOATING_IP]
    assert site.announced[-1] == ("stop", OTHER)
    site.holdings.take_report(report(lease(OTHER, counter=2)))
    assert list(site.holdings.held) == [OTHER]


def test_that_it_ended_is_on_record(tmp_path: Path) -> None:
    def act(site: Site) -> None:
        site.holdings.take_report(report(lease()))
        site.now_ns = 100 * SECOND
        site.holdings.expire()

    assert [record.kind for record in recorded(tmp_path, act)] == [RecordKind.ACQUIRED, RecordKind.EXPIRED]


def test_what_is_gone_is_announced_no_more(site: Site) -> None:
    site.holdings.take_report(report(lease()))
    site.holdings.take_report(report())
    assert site.announced == [("start", FLOATING_IP), ("stop", FLOATING_IP)]
    assert site.holdings.held == {}


@pytest.mark.parametrize(
    ("now_s", "released", "kind"),
    [(99, (), RecordKind.RELEASED), (101, (), RecordKind.EXPIRED), (101, (FLOATING_IP,), RecordKind.RELEASED)],
)
def test_the_end_of_a_lease_is_recorded_as_what_it_was(
    tmp_path: Path, now_s: int, released: tuple[IPv4Address, ...], kind: RecordKind
) -> None:
    def act(site: Site) -> None:
        site.holdings.take_report(report(lease()))
        site.now_ns = now_s * SECOND
        site.holdings.take_report(report(released=released))

    assert [record.kind for record in recorded(tmp_path, act)] == [RecordKind.ACQUIRED, kind]


def test_a_takeover_names_the_former_holder_and_why(tmp_path: Path) -> None:
    def act(site: Site) -> None:
        site.holdings.take_report(report())
        site.locations[FLOATING_IP] = Location(FLOATING_IP, "worker2", Token(3, 1, 1))
        site.holdings.take_report(report(lease()))

    (record,) = recorded(tmp_path, act)
    assert (record.previous, record.reason) == ("worker2", "failover: previous holder's lease ended")


def test_what_the_first_report_lists_was_held_before_this_agent_started(tmp_path: Path) -> None:
    (record,) = recorded(tmp_path, lambda site: site.holdings.take_report(report(lease())))
    assert record.reason == "adopted after restart"


def test_a_member_that_comes_back_is_noticed_once() -> None:
    returns: list[str] = []
    members = Returns(lambda: returns.append("back"))
    for state in (NodeState.UP, NodeState.UP, NodeState.DOWN, NodeState.UP, NodeState.UP):
        members.note("worker2", state)
    assert returns == ["back"]
