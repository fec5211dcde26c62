"""Grants that may still be acknowledged."""

from service.port_block.message import Receiver
from service.port_block.unanswered import UNANSWERED_MAX, Sent, Unanswered
from tests.port_block.site import IP


def test_an_answer_is_understood_if_it_comes_from_whom_it_was_sent_to_and_not_too_late() -> None:
    unanswered = Unanswered(100)
    sent = Sent(Receiver.OWNER, "node1", IP, 1, ())
    sequence = unanswered.add(sent)
    assert unanswered.of(sequence, "node1") is sent
    assert unanswered.of(sequence, "node2") is None
    assert unanswered.of(sequence + 1, "node1") is None
    for _ in range(UNANSWERED_MAX):
        unanswered.add(sent)
    assert unanswered.of(sequence, "node1") is None
