"""The newest epoch counts, whoever tells it; nothing older or contradicting is gone by (M1)."""

import logging

import pytest

from service.electorate.book import ElectorateBook
from service.lease.electorate_message import Survey, decode_electorate_message, encode_electorate_message
from service.model.errors import PeerError
from service.model.lease import NO_ELECTORATE, Elector, Electorate
from service.model.machine import Address, Source

ALICE, BOB, CAROL = (Elector(name, f"192.0.2.{index}") for index, name in enumerate(("alice", "bob", "carol"), 1))
TWO = Electorate(4, (ALICE, BOB))
THREE = Electorate(5, (ALICE, BOB, CAROL), TWO.members)
PEER = Source(Address("192.0.2.9", 9644), "bob", 1)


class Reader:
    """A book, and what became of it."""

    def __init__(self, known: Electorate = TWO) -> None:
        self.adopted: list[Electorate] = []
        self.sent: list[tuple[Address, bytes]] = []
        self.book = ElectorateBook(known, adopted=self.adopted.append)

    def hear(self, electorate: Electorate) -> None:
        self.book.receive(PEER, encode_electorate_message(electorate), send=lambda *what: self.sent.append(what))


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_a_newer_epoch_is_adopted_whoever_names_it(reader: Reader) -> None:
    assert reader.book.offer(THREE, origin="the configuration")
    assert (reader.book.known, reader.adopted) == (THREE, [THREE])
    other = Reader()
    other.hear(THREE)
    assert (other.book.known, other.adopted, other.sent) == (THREE, [THREE], [])


def test_it_is_known_already_when_it_is_told(reader: Reader) -> None:
    """Whoever is called asks the book what to write down, and must not find the one before."""
    seen: list[Electorate] = []
    book = ElectorateBook(TWO, adopted=lambda _: seen.append(book.known))
    book.offer(THREE, origin="the object")
    assert seen == [THREE]


def test_an_older_epoch_is_refused_and_reported(reader: Reader) -> None:
    assert not reader.book.offer(Electorate(3, (BOB,)), origin="the electorate object")
    assert (reader.book.known, reader.adopted) == (TWO, [])
    assert reader.book.trouble == "the electorate object names epoch 3, older than 4, which was accepted"


def test_other_members_in_the_same_epoch_are_refused_and_reported(reader: Reader) -> None:
    assert not reader.book.offer(Electorate(4, (ALICE, CAROL)), origin="the electorate object")
    assert (reader.book.known, reader.adopted) == (TWO, [])
    assert "other electors for epoch 4" in reader.book.trouble


def test_the_same_once_more_is_gone_by_and_changes_nothing(reader: Reader) -> None:
    # Without the electors before it: the object does not keep them.
    reader.book.offer(THREE, origin="another keeper")
    assert reader.book.offer(Electorate(5, THREE.members), origin="the electorate object")
    assert (reader.book.known, reader.adopted, reader.book.trouble) == (THREE, [THREE], "")


@pytest.mark.parametrize("cure", [TWO, THREE], ids=["what is known", "a newer one"])
def test_trouble_is_over_with_an_offer_that_can_be_gone_by(reader: Reader, cure: Electorate) -> None:
    reader.book.offer(Electorate(3, (BOB,)), origin="the electorate object")
    assert reader.book.trouble
    assert reader.book.offer(cure, origin="the electorate object")
    assert reader.book.trouble == ""


def test_a_trouble_that_stays_is_logged_once(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    for _ in range(3):
        reader.book.offer(Electorate(3, (BOB,)), origin="the electorate object")
    assert len(caplog.records) == 1
    reader.book.refuse("another")
    assert [record.getMessage() for record in caplog.records][1:] == ["electorate refused: another"]


def test_who_is_behind_is_told_better(reader: Reader) -> None:
    reader.hear(Electorate(3, (BOB,)))
    ((to, payload),) = reader.sent
    assert (to, decode_electorate_message(payload)) == (PEER.address, TWO)
    # Another keeper that is behind is no trouble of ours.
    assert (reader.book.trouble, reader.adopted) == ("", [])


def test_who_knows_the_same_is_not_answered(reader: Reader) -> None:
    """Two that answered each other would never stop."""
    reader.hear(TWO)
    assert reader.sent == []


def test_who_knows_nothing_teaches_nobody() -> None:
    reader = Reader(NO_ELECTORATE)
    reader.hear(NO_ELECTORATE)
    assert (reader.sent, reader.adopted) == ([], [])


@pytest.mark.parametrize("payload", [encode_electorate_message(Survey(9, 1)), b"", b"\xff" * 40])
def test_what_is_no_electorate_is_refused_and_changes_nothing(reader: Reader, payload: bytes) -> None:
    with pytest.raises(PeerError):
        reader.book.receive(PEER, payload, send=lambda *what: reader.sent.append(what))
    assert (reader.book.known, reader.sent, reader.adopted) == (TWO, [], [])


def test_an_offer_that_cannot_be_is_refused_and_the_one_in_force_stays() -> None:
    """Seen: an epoch typed by hand, above 32 bits, ended every keeper of a cluster, and again at each start."""
    adopted: list[Electorate] = []
    book = ElectorateBook(Electorate(3, (Elector("a", "192.0.2.1"),)), adopted=adopted.append)
    assert not book.offer(Electorate(1732800000000, (Elector("a", "192.0.2.1"),)), origin="the electorate object")
    assert (book.known.epoch, adopted) == (3, [])
    assert book.trouble.startswith("the electorate object: epoch 1732800000000 is not from 1 to")


def test_m8_one_that_was_written_anew_is_not_entered_from_one_that_may_have_followed_whoever_says_it(
    reader: Reader,
) -> None:
    members = THREE.members
    reader.book.offer(THREE, origin="another keeper")
    reader.hear(Electorate(1004, TWO.members, TWO.members))
    assert reader.book.known == THREE
    assert "written anew after 4, but 5 is known" in reader.book.trouble
    reader.hear(Electorate(1005, members, members))
    assert reader.book.known.epoch == 1005, "nobody can have followed that"


def test_m8_who_knows_nothing_waits_for_a_keeper_without_trouble() -> None:
    reader = Reader(NO_ELECTORATE)
    assert not reader.book.offer_written(THREE, begun_anew=False, may_follow=lambda _: True)
    assert (reader.adopted, reader.book.trouble) == ([], "")
    reader.hear(THREE)
    assert reader.adopted == [THREE]


def test_m3_with_a_configured_electorate_one_that_follows_none_is_nobodys_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is what a node with a new disk, or a controller, found in its configuration."""
    caplog.set_level(logging.WARNING)
    adopted: list[Electorate] = []
    book = ElectorateBook(TWO, adopted=adopted.append, is_configured=True)
    for _ in range(3):
        book.receive(PEER, encode_electorate_message(Electorate(5, THREE.members)), send=lambda *_: None)
    assert (adopted, len(caplog.records)) == ([], 1)
    book.receive(PEER, encode_electorate_message(THREE), send=lambda *_: None)
    assert adopted == [THREE]


def test_m8_an_object_that_is_further_ahead_than_one_step_is_trouble_only_when_no_keeper_explains_it(
    reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    """Two steps follow each other when an elector is replaced, and not everybody hears of the first in time."""
    caplog.set_level(logging.ERROR)
    ahead = Electorate(6, (ALICE, BOB), THREE.members)

    def offer(times: int) -> None:
        for _ in range(times):
            reader.book.offer_written(ahead, begun_anew=False, may_follow=lambda _: True)

    offer(5)
    assert (reader.book.trouble, caplog.records) == ("", [])
    offer(5)
    assert "epoch 6 does not follow 4" in reader.book.trouble
    reader.hear(THREE)
    offer(1)
    assert (reader.book.known, reader.book.trouble) == (ahead, "")
