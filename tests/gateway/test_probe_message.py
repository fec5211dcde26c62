"""Wire form of questions and answers over the data path (rule X1)."""

import pytest

from service.gateway.probe_message import QuestionMessage, ReplyMessage, decode_message, encode_message
from service.model.errors import PeerError


@pytest.mark.parametrize(
    "message",
    [
        QuestionMessage(0xC0A80164, (1 << 64) - 1, 7, True),
        ReplyMessage(0xC0A80164, 1, 7),
        ReplyMessage(1, 1, 7, (1, 2, 3)),
    ],
)
def test_what_is_said_is_what_is_read(message: QuestionMessage | ReplyMessage) -> None:
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize("payload", [b"", b"\xc1", encode_message(ReplyMessage(1, 1, 1))[:-1], b"\x93\x01\x02\x03"])
def test_anything_else_is_refused(payload: bytes) -> None:
    with pytest.raises(PeerError, match="malformed-probe"):
        decode_message(payload)
