"""When what is sent to whom, and from when an answer counts."""

from service.lease.message import GROUP_KEYS, GROUPS_MAX, Ack, ClaimRole, Entry, Renew, decode
from service.lease.session import PLACE_KEPT_NS, Session
from service.model.lease import Elector, Electorate, LeaseProfile, Token
from service.model.machine import Send

MS = 1_000_000
ELECTORATE = Electorate(1, tuple(Elector(f"node{i}", f"10.0.0.{i}") for i in range(3)))
ENTRY = Entry("192.0.2.100", ClaimRole.HOLDER, Token(1, 1, 1))


def session() -> Session:
    profile = LeaseProfile(300 * MS, 60 * MS)
    return Session(electorate=ELECTORATE, lease_port=9644, profile=profile, boot_id=bytes(16))


def renewals(sends: list[Send]) -> dict[str, Renew]:
    found = {}
    for send in sends:
        message = decode(send.payload)
        assert isinstance(message, Renew)
        found[send.to.host] = message
    return found


def ack(renew: Renew, *, needs_list: bool = False) -> Ack:
    granted = () if needs_list else (True,) * 1
    return Ack(1, 1, renew.sequence, renew.group, renew.list_number, needs_list, granted)


def test_nothing_is_sent_where_there_is_nothing_to_renew() -> None:
    quiet = session()
    assert quiet.due_ns() is None
    assert quiet.renewals(0) == []


def test_a_renewal_without_answer_is_sent_again_after_a_third_with_a_new_time() -> None:
    machine = session()
    machine.put(ENTRY)
    first = renewals(machine.renewals(0))
    machine.acknowledge("node0", ack(first["10.0.0.0"]))
    assert machine.due_ns() == 20 * MS
    again = renewals(machine.renewals(20 * MS))
    assert sorted(again) == ["10.0.0.1", "10.0.0.2"]
    sent = machine.acknowledge("node1", ack(again["10.0.0.1"]))
    assert sent is not None
    assert sent.sent_ns == 20 * MS


def test_an_answered_elector_is_asked_again_a_whole_interval_after_the_round_began() -> None:
    machine = session()
    machine.put(ENTRY)
    for host, renew in renewals(machine.renewals(0)).items():
        machine.acknowledge(f"node{host[-1]}", ack(renew))
    assert machine.due_ns() == 60 * MS


def test_the_list_goes_along_until_it_is_confirmed_and_again_when_it_changes() -> None:
    machine = session()
    machine.put(ENTRY)
    first = renewals(machine.renewals(0))["10.0.0.0"]
    assert first.entries == (ENTRY,)
    machine.acknowledge("node0", ack(first))
    second = renewals(machine.renewals(60 * MS))["10.0.0.0"]
    assert second.entries is None
    machine.put(Entry("192.0.2.100", ClaimRole.HOLDER, Token(1, 1, 2)))
    third = renewals(machine.renewals(60 * MS))["10.0.0.0"]
    assert third.entries is not None
    assert third.list_number > second.list_number


def test_an_elector_that_does_not_know_the_list_gets_it_at_once() -> None:
    machine = session()
    machine.put(ENTRY)
    machine.acknowledge("node0", ack(renewals(machine.renewals(0))["10.0.0.0"]))
    second = renewals(machine.renewals(60 * MS))["10.0.0.0"]
    assert machine.acknowledge("node0", ack(second, needs_list=True)) is None
    assert machine.due_ns() == 0
    assert renewals(machine.renewals(61 * MS))["10.0.0.0"].entries == (ENTRY,)


def test_an_answer_to_a_renewal_that_was_never_sent_or_is_forgotten_counts_for_nothing() -> None:
    machine = session()
    machine.put(ENTRY)
    first = renewals(machine.renewals(0))["10.0.0.0"]
    unsent = Ack(1, 1, first.sequence + 9, 0, first.list_number, False, (True,))
    assert machine.acknowledge("node0", unsent) is None
    machine.renewals(400 * MS)
    assert machine.acknowledge("node0", ack(first)) is None


def test_more_keys_than_a_datagram_holds_go_in_groups_that_keep_their_keys() -> None:
    machine = session()
    keys = [f"10.1.{i // 256}.{i % 256}" for i in range(2 * GROUP_KEYS + 1)]
    for key in keys:
        machine.put(Entry(key, ClaimRole.HOLDER, Token(1, 1, 1)))
    listed = [decode(send.payload) for send in machine.renewals(0) if send.to.host == "10.0.0.0"]
    assert sorted(entry.key for renew in listed for entry in renew.entries or ()) == sorted(keys)
    groups = {entry.key: renew.group for renew in listed for entry in renew.entries or ()}
    machine.remove(keys[0], now_ns=0)
    machine.put(Entry(keys[-1], ClaimRole.HOLDER, Token(1, 1, 2)))
    machine.put(Entry(keys[0], ClaimRole.HOLDER, Token(1, 1, 2)))
    later = [decode(send.payload) for send in machine.renewals(60 * MS) if send.to.host == "10.0.0.0"]
    assert {entry.key: renew.group for renew in later for entry in renew.entries or ()} == groups


def test_a_place_is_free_again_a_minute_after_the_last_word_of_its_key() -> None:
    machine = session()
    for index in range(GROUP_KEYS * GROUPS_MAX):
        machine.put(Entry(f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}", ClaimRole.HOLDER, Token(1, 1, 1)))
    assert machine.has_room("10.0.0.0")
    assert not machine.has_room(ENTRY.key)
    machine.remove("10.0.0.7", now_ns=0)
    assert machine.forget(PLACE_KEPT_NS - 1) == []
    assert not machine.has_room(ENTRY.key)
    assert machine.forget(PLACE_KEPT_NS) == ["10.0.0.7"]
    machine.put(ENTRY)
    assert not machine.has_room("10.0.0.7")


def test_a_key_that_is_spoken_of_again_keeps_its_place() -> None:
    machine = session()
    machine.put(ENTRY)
    machine.remove(ENTRY.key, now_ns=0)
    machine.put(ENTRY)
    assert machine.forget(2 * PLACE_KEPT_NS) == []


def test_an_elector_that_comes_back_hears_higher_sequences_than_before_and_others_are_forgotten() -> None:
    machine = session()
    machine.put(ENTRY)
    before = max(renew.sequence for renew in renewals(machine.renewals(0)).values())
    machine.set_electorate(Electorate(2, (Elector("node9", "10.0.0.9"),)))
    machine.renewals(60 * MS)
    machine.set_electorate(Electorate(3, ELECTORATE.members))
    assert all(renew.sequence > before for renew in renewals(machine.renewals(120 * MS)).values())
    assert list(machine._sequences) == ["node0", "node1", "node2"]
