"""Claims of the envelope: who can open what, and what a forgery costs."""

import pytest

from service.model.errors import InvariantError, OperatorError, PeerError
from service.wire import envelope as envelope_module
from service.wire.envelope import OVERHEAD_MAX, Envelope

KEY = bytes(range(32))
NEW_KEY = bytes(range(32, 64))


def make(
    node: str = "alpha",
    start_id: int = 1,
    *,
    keys: tuple[bytes, ...] = (KEY,),
    cluster: str = "prod",
    purpose: str = "gossip",
) -> Envelope:
    return Envelope(keys, cluster=cluster, node=node, start_id=start_id, purpose=purpose, clock=lambda: 0)


def refusal(receiver: Envelope, datagram: bytes) -> str:
    with pytest.raises(PeerError) as caught:
        receiver.open(datagram)
    return str(caught.value)


def test_what_is_sealed_opens_at_another_member_with_its_sender() -> None:
    opened = make("beta", 2).open(make("alpha", 1).seal(b"hello"))
    assert opened == ("alpha", 1, 0, 1, b"hello")


def test_an_empty_payload_and_the_longest_name_stay_within_the_overhead() -> None:
    datagram = make("n" * 63, 9).seal(b"")
    assert len(datagram) == OVERHEAD_MAX
    assert make("beta", 2).open(datagram).payload == b""


def test_counters_strictly_increase() -> None:
    sender, receiver = make(), make("beta", 2)
    assert [receiver.open(sender.seal(b"")).counter for _ in range(3)] == [1, 2, 3]


def test_a_replay_is_refused() -> None:
    receiver, datagram = make("beta", 2), make().seal(b"x")
    receiver.open(datagram)
    assert refusal(receiver, datagram) == "replay"


def test_reordered_datagrams_open() -> None:
    sender, receiver = make(), make("beta", 2)
    datagrams = [sender.seal(bytes([n])) for n in range(50)]
    assert [receiver.open(datagram).payload[0] for datagram in reversed(datagrams)] == list(reversed(range(50)))


def test_our_own_reflection_is_refused_but_not_our_former_life() -> None:
    now, former = make(start_id=5), make(start_id=4)
    assert refusal(now, now.seal(b"x")) == "reflection"
    assert now.open(former.seal(b"x")).start_id == 4


@pytest.mark.parametrize("stranger", [{"cluster": "test"}, {"purpose": "lease"}], ids=["cluster", "purpose"])
def test_another_cluster_or_purpose_is_a_stranger(stranger: dict[str, str]) -> None:
    assert refusal(make("beta", 2), make(**stranger).seal(b"x")) == "bad-tag"


def test_cluster_and_purpose_cannot_run_together() -> None:
    one, other = make(purpose="ab", cluster="c"), make("beta", 2, purpose="a", cluster="bc")
    assert refusal(other, one.seal(b"x")) == "bad-tag"


def test_a_foreign_ring_is_an_unknown_key() -> None:
    assert refusal(make("beta", 2), make(keys=(NEW_KEY,)).seal(b"x")) == "unknown-key"


def test_every_flipped_bit_is_refused() -> None:
    datagram = make().seal(b"payload", receiver=2)
    for position in range(len(datagram)):
        forged = bytearray(datagram)
        forged[position] ^= 0x01
        with pytest.raises(PeerError):
            make("beta", 2).open(bytes(forged))


def test_every_truncation_is_refused() -> None:
    datagram = make().seal(b"payload")
    for length in range(len(datagram)):
        with pytest.raises(PeerError):
            make("beta", 2).open(datagram[:length])


def test_a_refused_forgery_does_not_block_the_true_datagram() -> None:
    sender, receiver = make(), make("beta", 2)
    datagram = sender.seal(b"x")
    assert refusal(receiver, datagram[:-1] + bytes([datagram[-1] ^ 1])) == "bad-tag"
    assert receiver.open(datagram).payload == b"x"


def test_a_datagram_for_another_start_id_is_refused_unless_asked_for() -> None:
    receiver = make("beta", 2)
    datagram = make().seal(b"x", receiver=3)
    assert refusal(receiver, datagram) == "other-receiver"
    assert receiver.open(datagram, any_receiver=True).receiver == 3
    assert receiver.open(make(start_id=7).seal(b"y", receiver=2)).payload == b"y"


def test_rotation_opens_both_keys_while_the_first_seals() -> None:
    old, both, new = make(), make("beta", 2, keys=(NEW_KEY, KEY)), make("gamma", 3, keys=(NEW_KEY,))
    assert both.open(old.seal(b"1")).payload == b"1"
    assert new.open(both.seal(b"2")).payload == b"2"
    assert refusal(old, both.seal(b"3")) == "unknown-key"


def test_replacing_keys_keeps_counter_and_replay_window() -> None:
    sender, receiver = make(), make("beta", 2)
    before = sender.seal(b"1")
    receiver.open(before)
    for member in (sender, receiver):
        member.replace_keys((NEW_KEY, KEY))
    assert receiver.open(sender.seal(b"2")).counter == 2
    assert refusal(receiver, before) == "replay"
    receiver.replace_keys((NEW_KEY,))
    assert refusal(receiver, make(start_id=8).seal(b"3")) == "unknown-key"


def test_forged_senders_use_up_a_budget_that_known_senders_do_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope_module, "_DERIVATIONS_BURST", 3)
    now_ns = [0]
    receiver = Envelope((KEY,), cluster="prod", node="beta", start_id=2, purpose="gossip", clock=lambda: now_ns[0])
    known, newcomer = make(), make("gamma", 3)
    receiver.open(known.seal(b""))
    forgeries = [make("evil", 100 + n).seal(b"")[:-1] + b"\x00" for n in range(4)]
    assert [refusal(receiver, forgery) for forgery in forgeries] == ["bad-tag"] * 3 + ["rate"]
    assert refusal(receiver, newcomer.seal(b"")) == "rate"
    assert receiver.open(known.seal(b"still here")).payload == b"still here"
    now_ns[0] = 1_000_000_000
    assert receiver.open(newcomer.seal(b"")).node == "gamma"


def test_forgeries_in_the_name_of_a_known_sender_use_up_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope_module, "_DERIVATIONS_BURST", 3)
    receiver, known = make("beta", 2), make()
    receiver.open(known.seal(b""))
    assert [refusal(receiver, known.seal(b"")[:-1] + b"\x00") for _ in range(10)] == ["bad-tag"] * 10
    assert receiver.open(make("gamma", 3).seal(b"")).node == "gamma"


def test_the_senders_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope_module, "_SENDERS_MAX", 4)
    receiver = make("beta", 2)
    datagrams = [make(start_id=start_id).seal(b"") for start_id in range(10, 30)]
    for datagram in datagrams:
        receiver.open(datagram)
    # Of whom is remembered a repetition is noticed. The newest first: who was forgotten is remembered anew.
    newest, older = datagrams[-4:], datagrams[:-4]
    assert [refusal(receiver, datagram) for datagram in reversed(newest)] == ["replay"] * 4
    assert [receiver.open(datagram).start_id for datagram in reversed(older)] == list(range(25, 9, -1))


def test_unusable_keys_and_names_are_the_operators_fault() -> None:
    for keys in ((), (b"short",)):
        with pytest.raises(OperatorError, match="keyring"):
            make(keys=keys)
    for node in ("", "n" * 64):
        with pytest.raises(OperatorError, match="node"):
            make(node)
    with pytest.raises(InvariantError):
        make(start_id=0)
