from random import Random

import pytest

from service.gossip.probe import RELAYS_MAX, Probe, Relays, Rotation, RoundTrip, RoundTrips
from service.model.machine import Address

MS = 1_000_000
ORIGIN = Address("10.0.0.1", 9640)


# Round trips


def test_without_a_measured_round_trip_the_timeout_is_the_longest() -> None:
    assert RoundTrip().timeout_ns(50 * MS, 200 * MS) == 200 * MS


def test_the_timeout_follows_round_trip_and_variation_within_bounds() -> None:
    """RFC 6298, 2.2: after the first measurement R, SRTT = R, RTTVAR = R/2, RTO = SRTT + 4 * RTTVAR."""
    round_trip = RoundTrip()
    round_trip.observe(30 * MS)
    assert round_trip.timeout_ns(50 * MS, 200 * MS) == 90 * MS
    for _ in range(100):
        round_trip.observe(1 * MS)
    assert round_trip.timeout_ns(50 * MS, 200 * MS) == 50 * MS
    round_trip.observe(900 * MS)
    assert round_trip.timeout_ns(50 * MS, 200 * MS) == 200 * MS


def test_round_trips_are_kept_per_member_and_forgotten_with_it() -> None:
    round_trips = RoundTrips(50 * MS, 200 * MS)
    round_trips.observe("m1", 30 * MS)
    assert (round_trips.timeout_ns("m1"), round_trips.timeout_ns("m2")) == (90 * MS, 200 * MS)
    round_trips.keep(["m2"])
    assert round_trips.timeout_ns("m1") == 200 * MS


# Rotation


def rotation(size: int, seed: int = 1) -> Rotation:
    order = Rotation(Random(seed))
    for index in range(size):
        order.add(f"m{index}")
    return order


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_no_member_waits_longer_than_2n_minus_1_periods(size: int) -> None:
    """SWIM 4.3: successive selections of one member are at most 2n - 1 periods apart."""
    order = rotation(size)
    last: dict[str | None, int] = {}
    for period in range(20 * size):
        name = order.next()
        assert period - last.get(name, period) <= 2 * size - 1
        last[name] = period
    assert len(last) == size


def test_each_turn_probes_everyone_once_in_another_order() -> None:
    order = rotation(20)
    turns = [[order.next() for _ in range(20)] for _ in range(3)]
    assert all(len(set(turn)) == 20 for turn in turns)
    assert turns[0] != turns[1] != turns[2]


def test_members_that_come_and_go_within_a_turn_disturb_nobodys_turn() -> None:
    for seed in range(50):
        order = rotation(6, seed)
        probed = [order.next() for _ in range(3)]
        order.remove(str(probed[0]))
        order.add("new")
        rest = [order.next() for _ in range(3)]
        assert not set(probed) & set(rest)


def test_an_accused_member_is_probed_next_and_once() -> None:
    order = rotation(20)
    order.hasten("m7")
    order.hasten("stranger")
    assert order.next() == "m7"
    assert len({order.next() for _ in range(20)}) == 20


def test_nobody_to_probe_is_no_error() -> None:
    order = rotation(1)
    order.remove("m0")
    order.remove("m0")
    assert order.next() is None


# Probes


def test_helpers_that_say_nothing_are_counted() -> None:
    probe = Probe("m1", ORIGIN, 1, 0, 50 * MS, helpers=("m2", "m3", "m4"))
    probe.nacks["m3"] = None
    assert probe.missing_nacks == 2


def test_a_probe_gets_back_the_time_we_stood_still_and_is_no_measure_any_more() -> None:
    probe = Probe("m1", ORIGIN, 1, 0, 50 * MS)
    probe.postpone(1000 * MS)
    assert probe.indirect_at_ns == 1050 * MS
    assert not probe.is_timing_clean


# Relays


def relays() -> Relays:
    opened = Relays()
    assert opened.open(5, origin=ORIGIN, name="m0", origin_sequence=9, nack_at_ns=40 * MS, expires_ns=500 * MS)
    return opened


def test_an_answered_relay_sends_no_nack() -> None:
    opened = relays()
    assert opened.close(5) == (ORIGIN, "m0", 9)
    assert opened.close(5) is None
    assert opened.deadline_ns() is None


def test_a_silent_target_is_nacked_once_and_a_late_ack_is_still_passed_on() -> None:
    """Lifeguard: the helper nacks in time for the asker, and an ack may still overtake the verdict."""
    opened = relays()
    nacks: list[tuple[Address, str, int]] = []
    for now_ns in (39 * MS, 40 * MS, 41 * MS):
        opened.run_due(now_ns, lambda *nack: nacks.append(nack))
    assert nacks == [(ORIGIN, "m0", 9)]
    assert opened.close(5) == (ORIGIN, "m0", 9)


def test_relays_expire_and_are_bounded() -> None:
    opened = Relays()
    for sequence in range(RELAYS_MAX + 1):
        accepted = opened.open(sequence, origin=ORIGIN, name="m0", origin_sequence=1, nack_at_ns=1, expires_ns=500 * MS)
        assert accepted == (sequence < RELAYS_MAX)
    opened.run_due(500 * MS, lambda *_: None)
    assert opened.deadline_ns() is None
