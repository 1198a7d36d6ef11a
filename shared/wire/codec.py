"""Messages to frames and back: `[b"cvp/1"] [header] [blob...]`, where the header is a MessagePack map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec
from zmq import Frame

from shared.wire.messages import PROTOCOL, Event, Message, ToBroker, ToClient, ToWorker

MAX_HEADER_BYTES = 16 << 20
"""The largest is a `Status`, which names each model in each inference process: some 260 bytes."""
MAX_BLOBS = 256
MAX_BLOB_BYTES = 256 << 20

Part = bytes | Frame
"""One frame: bytes, or a received frame that is passed on without a copy."""

M = TypeVar("M")
P = TypeVar("P", bytes, Frame)

_encoder = msgspec.msgpack.Encoder()


class BadFrames(Exception):
    """Frames that are no message of `cvp/1`: wrong protocol, too large, malformed, or of the wrong direction."""


def encode(message: Message, blobs: Sequence[Part] = ()) -> list[Part]:
    """The frames of a message, without the identity or topic that a socket may need in front.

    Raises:
        BadFrames: The header is too large or holds what MessagePack cannot, or the blobs are too many or too large.
    """
    try:
        header = _encoder.encode(message)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadFrames(f"{type(message).__name__} cannot be written as MessagePack: {error}") from error
    _check_sizes(header, blobs)
    return [PROTOCOL, header, *blobs]


class Decoder(Generic[M]):
    """Reads the messages of one direction; opens the header only and hands the blobs on as they came."""

    def __init__(self, union: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(union)

    def __call__(self, frames: Sequence[P]) -> tuple[M, Sequence[P]]:
        """The message and its blobs.

        Raises:
            BadFrames: Whatever was wrong with the frames; nothing else is ever raised.
        """
        if len(frames) < 2 or len(frames[0]) != len(PROTOCOL) or _bytes(frames[0]) != PROTOCOL:
            raise BadFrames(f"expected {PROTOCOL!r}, a header and blobs; got {len(frames)} other frames")
        _check_sizes(frames[1], frames[2:])
        try:
            return self._decoder.decode(_bytes(frames[1])), frames[2:]
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise BadFrames(f"not a message of this direction: {error}") from error


def _bytes(part: Part) -> bytes:
    return part if isinstance(part, bytes) else part.bytes


def _check_sizes(header: Part, blobs: Sequence[Part]) -> None:
    if len(header) > MAX_HEADER_BYTES:
        raise BadFrames(f"the header has {len(header)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    if len(blobs) > MAX_BLOBS:
        raise BadFrames(f"there are {len(blobs)} blobs, at most {MAX_BLOBS} are allowed")
    for blob in blobs:
        if len(blob) > MAX_BLOB_BYTES:
            raise BadFrames(f"a blob has {len(blob)} bytes, at most {MAX_BLOB_BYTES} are allowed")


to_broker: Decoder[ToBroker] = Decoder(ToBroker)
to_client: Decoder[ToClient] = Decoder(ToClient)
to_worker: Decoder[ToWorker] = Decoder(ToWorker)
event: Decoder[Event] = Decoder(Event)
