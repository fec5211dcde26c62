"""What rows of flows add up to, whatever becomes of the rows between two looks."""

import random
import struct
from ipaddress import IPv4Address

import pytest

from service.datapath.attribution import Attribution, Label
from service.datapath.flow_row import FLOW
from service.datapath.layout import NO_MAC
from service.datapath.traffic import Account, Numbers, Traffic

F, G = (IPv4Address(one).packed for one in ("192.168.1.100", "192.168.1.101"))
POD, SERVER = (IPv4Address(one).packed for one in ("10.0.0.1", "203.0.113.7"))
ALL, OTHER, DNS = ("all", F), ("other", F), ("dns", G)


def attribution(**addresses: bytes) -> Attribution:
    """Policies by name, each with its address; all three are there."""
    deciding = {address: name for name, address in addresses.items()}
    return Attribution(deciding, policies=("all", "other", "dns"), floating_ips=(F, G))


BOTH = attribution(all=F, dns=G)


def key(port: int = 1) -> bytes:
    return struct.pack(">4s4sHHB3x", POD, SERVER, port, 443, 6)


def value(out_packets: int, in_packets: int = 0, *, size: int = 100, floating_ip: bytes = F) -> bytes:
    """`size`: bytes of each packet."""
    numbers = (out_packets % 2**32, in_packets % 2**32, out_packets * size, in_packets * size)
    return FLOW.pack(7, 8, 240, 71, 3, floating_ip, 0, b"\4\0", 1, 0, *numbers, 0, 0, 0, NO_MAC, NO_MAC)


def sweep(traffic: Traffic, *rows: tuple[bytes, bytes], said: Attribution = BOTH) -> dict[Label, Account]:
    traffic.begin(said)
    traffic.take(rows)
    traffic.finish()
    return traffic.totals


def counts(traffic: Traffic, label: Label = ALL) -> tuple[int, int, int, int]:
    """Packets of pods, packets back, flows opened, flows now."""
    account = traffic.totals.get(label, Account())
    assert account.total.out_bytes == 100 * account.total.out_packets
    return account.total.out_packets, account.total.in_packets, account.total.flows, account.flows


def test_b6_what_a_row_has_more_than_before_is_added() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(3, 2)))
    assert counts(traffic) == (3, 2, 1, 1)
    sweep(traffic, (key(), value(10, 4)), (key(2), value(1)))
    assert counts(traffic) == (11, 4, 2, 2)


def test_b6_each_policy_and_floating_ip_has_its_own() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(3)), (key(2), value(5, floating_ip=G)))
    assert (counts(traffic, ALL), counts(traffic, DNS)) == ((3, 0, 1, 1), (5, 0, 1, 1))


def test_nothing_is_said_before_the_first_look_is_done() -> None:
    traffic = Traffic({ALL: Account(Numbers(9), Numbers(9))})
    assert traffic.totals == {}
    traffic.begin(BOTH)
    traffic.take([(key(), value(3))])
    assert traffic.totals == {}


def test_a_flow_that_the_agent_takes_away_keeps_what_it_had() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(3)))
    traffic.end(key(), value(7))
    sweep(traffic)
    assert counts(traffic) == (7, 0, 1, 0)
    sweep(traffic, (key(), value(2)))
    assert counts(traffic) == (9, 0, 2, 1), "it is another one"


def test_what_was_evicted_keeps_what_it_had_at_the_last_look() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(3)))
    for _ in range(3):
        sweep(traffic)
    assert counts(traffic) == (3, 0, 1, 0)


def test_a_row_that_one_look_missed_is_the_same_flow() -> None:
    """It was on its way to another table."""
    traffic = Traffic({})
    sweep(traffic, (key(), value(3)))
    sweep(traffic)
    assert counts(traffic) == (3, 0, 1, 1)
    sweep(traffic, (key(), value(5)))
    assert counts(traffic) == (5, 0, 1, 1)


def test_a_row_that_one_look_sees_twice_is_the_same_flow() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(3)), (key(), value(4)))
    sweep(traffic, (key(), value(5)))
    assert counts(traffic) == (5, 0, 1, 1)


def test_b6_what_a_program_removed_counts_to_its_last_packet() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(300)))
    traffic.begin(BOTH)
    traffic.depart([(key(), value(304))])
    traffic.take([(key(), value(2))])
    traffic.finish()
    assert counts(traffic) == (306, 0, 2, 1)


def test_a_flow_that_came_and_went_between_two_looks_counts() -> None:
    traffic = Traffic({})
    traffic.begin(BOTH)
    traffic.depart([(key(), value(4))])
    traffic.finish()
    assert counts(traffic) == (4, 0, 1, 0)


@pytest.mark.parametrize("packets", [2, 290, 305, 400])
def test_a_flow_that_was_replaced_while_a_look_went_on_is_counted_once(packets: int) -> None:
    """The look saw the new row, and the one before it comes with the next one."""
    traffic = Traffic({})
    sweep(traffic, (key(), value(300)))
    sweep(traffic, (key(), value(packets)))
    traffic.begin(BOTH)
    traffic.depart([(key(), value(304))])
    traffic.take([(key(), value(packets + 1))])
    traffic.finish()
    sweep(traffic, (key(), value(packets + 1)))
    sweep(traffic)
    sweep(traffic)
    assert counts(traffic) == (304 + packets + 1, 0, 2, 0)


def test_a_row_that_falls_back_a_little_takes_nothing_away_and_is_no_new_flow() -> None:
    traffic = Traffic({})
    for packets in (100, 99, 100, 101):
        sweep(traffic, (key(), value(packets)))
    assert counts(traffic) == (101, 0, 1, 1)


def test_packets_of_a_row_may_wrap() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(2**32 - 2)))
    sweep(traffic, (key(), value(2**32 + 3)))
    assert counts(traffic) == (2**32 + 3, 0, 1, 1)


def test_a_flow_of_another_address_is_another_flow() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(3)))
    sweep(traffic, (key(), value(5, floating_ip=G)))
    assert (counts(traffic, ALL)[:3], counts(traffic, DNS)) == ((3, 0, 1), (5, 0, 1, 1))


def test_b6_an_edit_leaves_what_was_counted_and_the_rest_goes_to_who_has_the_address_then() -> None:
    traffic = Traffic({})
    after = attribution(other=F)
    sweep(traffic, (key(), value(3)))
    sweep(traffic, (key(), value(10)), said=after)
    assert (counts(traffic, ALL), counts(traffic, OTHER)) == ((3, 0, 1, 0), (7, 0, 0, 1))
    sweep(traffic, said=after)
    sweep(traffic, said=after)
    assert (counts(traffic, ALL), counts(traffic, OTHER)) == ((3, 0, 1, 0), (7, 0, 0, 0))


def test_b6_what_is_of_no_policy_any_more_has_no_name() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(3)))
    sweep(traffic, (key(), value(4)), said=attribution())
    assert (counts(traffic, ALL), counts(traffic, ("", F))) == ((3, 0, 1, 0), (1, 0, 0, 1))


def test_b6_a_policy_that_is_gone_has_no_numbers_any_more() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(3)), (key(2), value(5, floating_ip=G)))
    traffic.begin(Attribution({F: "all"}, policies=("all",), floating_ips=(F,)))
    traffic.take([(key(), value(4)), (key(2), value(6, floating_ip=G))])
    changes = traffic.finish()
    assert set(traffic.totals) == {ALL}
    assert set(changes.gone) == {DNS, ("", G)}
    assert set(changes.stored) == {ALL}


def test_what_a_sweep_that_failed_had_seen_is_not_counted_again() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(3)))
    traffic.begin(BOTH)
    traffic.take([(key(), value(5))])
    sweep(traffic, (key(), value(6)))
    assert counts(traffic) == (6, 0, 1, 1)


# --- the next agent


def test_b6_the_next_agent_goes_on_where_this_one_was() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(300)), (key(2), value(10)))
    traffic.end(key(2), value(11))
    traffic.begin(BOTH)
    traffic.take([(key(), value(310))])
    kept = traffic.finish().stored
    assert kept[ALL].total.out_packets == 321
    after = Traffic(kept)
    sweep(after, (key(), value(350)), (key(3), value(5)))
    assert counts(after) == (350 + 11 + 5, 0, 3, 2), "also what passed while there was none"


def test_b6_no_number_falls_where_flows_went_while_there_was_no_agent() -> None:
    traffic = Traffic({})
    traffic.begin(BOTH)
    traffic.take([(key(), value(300))])
    after = Traffic(traffic.finish().stored)
    sweep(after)
    assert counts(after) == (300, 0, 1, 0)
    sweep(after, (key(2), value(5)))
    assert counts(after) == (305, 0, 2, 1)


def test_only_what_changed_is_stored() -> None:
    traffic = Traffic({})
    sweep(traffic, (key(), value(3)), (key(2), value(5, floating_ip=G)))
    traffic.begin(BOTH)
    traffic.take([(key(), value(3)), (key(2), value(6, floating_ip=G))])
    assert set(traffic.finish().stored) == {DNS}


class Table:
    """Flows as programs make, follow, remove and evict them, at any time; and what really passed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.rows: dict[bytes, int] = {}
        self.departed: dict[bytes, int] = {}
        self.passed = self.opened = 0
        self.unseen: dict[bytes, int] = {}
        """Of each row what passed since it was last looked at."""
        self.lost = 0
        """By evictions."""

    def act(self) -> None:
        one = key(self.random.randrange(8))
        action = self.random.random()
        if one not in self.rows:
            self.rows[one], self.opened = 0, self.opened + 1
        elif action < 0.05 and one not in self.departed:
            self.departed[one] = self.rows.pop(one)
            self.unseen.pop(one, None)
            return
        elif action < 0.1:
            del self.rows[one]
            self.lost += self.unseen.pop(one, 0)
            return
        packets = self.random.choice((1, 1, 2, 50))
        self.rows[one] += packets
        self.unseen[one] = self.unseen.get(one, 0) + packets
        self.passed += packets

    def sweep(self, traffic: Traffic) -> None:
        """Things happen while it goes on."""
        traffic.begin(BOTH)
        departed, self.departed = self.departed, {}
        traffic.depart((one, value(packets)) for one, packets in departed.items())
        for one in list(self.rows):
            for _ in range(self.random.randrange(3)):
                self.act()
            if one in self.rows:
                traffic.take([(one, value(self.rows[one]))])
                self.unseen.pop(one, None)
        traffic.finish()


@pytest.mark.parametrize("seed", range(40))
def test_b6_no_more_is_counted_than_passed_and_less_only_by_what_one_look_had_of_what_was_evicted(seed: int) -> None:
    table, traffic = Table(seed), Traffic({})
    for _ in range(60):
        for _ in range(table.random.randrange(20)):
            table.act()
        table.sweep(traffic)
        assert traffic.totals.get(ALL, Account()).total.out_packets <= table.passed
    for _ in range(3):
        departed, table.departed = table.departed, {}
        traffic.begin(BOTH)
        traffic.depart((one, value(packets)) for one, packets in departed.items())
        traffic.take((one, value(packets)) for one, packets in table.rows.items())
        traffic.finish()
    found = counts(traffic)
    assert found[0] >= table.passed - table.lost - 60 * 8 * 50 // 10
    assert found[3] == len(table.rows)
