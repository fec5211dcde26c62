"""Wire form of questions and answers over the data path: MessagePack arrays. The sender is the authenticated one."""

from typing import Annotated

import msgspec
from msgspec import Meta

from service.model.errors import PeerError

Count = Annotated[int, Meta(ge=0)]
AddressNumber = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]


class QuestionMessage(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Does this arrive, from the floating IP?"""

    floating_ip: AddressNumber
    nonce: Count
    """Of the asker's start: the answer says it again."""
    sequence: Count
    is_content: bool


class ReplyMessage(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """It did."""

    floating_ip: AddressNumber
    nonce: Count
    sequence: Count
    token: tuple[Count, Count, Count] | None = None
    """Under which the sender holds the address now (rule R2)."""


Message = QuestionMessage | ReplyMessage
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """One datagram's payload."""
    return _encoder.encode(message)


def decode_message(payload: bytes) -> Message:
    """Raises PeerError where it is none."""
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise PeerError("malformed-probe") from error
