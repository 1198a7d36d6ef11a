"""Frames: plain MessagePack that others can read, and nothing that others send can hurt."""

from __future__ import annotations

from contextlib import suppress
from types import UnionType
from typing import get_args

import msgpack
import msgspec
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from shared.wire import codec, messages, sockets
from shared.wire.codec import BadFrames
from shared.wire.events import _missing
from shared.wire.messages import PROTOCOL, AskStatus, Assign, Done, Event, Message, Publish, Submit, WhoAreYou

DIRECTIONS = {
    codec.to_broker: messages.ToBroker,
    codec.to_client: messages.ToClient,
    codec.to_worker: messages.ToWorker,
    codec.event: messages.Event,
}
SUBMIT = Submit(request_id="r", model_id="m", form="images", queue_ttl_ms=1, inference_ttl_ms=2.5)


def members(union: object) -> set[type]:
    return set(get_args(union)) if isinstance(union, UnionType) else {union}


def test_every_message_belongs_to_a_direction():
    assert set(Message.__subclasses__()) == set().union(*(members(union) for union in DIRECTIONS.values()))


def test_our_headers_are_plain_message_pack():
    protocol, header, blob = codec.encode(SUBMIT, [b"jpeg"])
    assert (protocol, blob) == (b"cvp/1", b"jpeg")
    assert msgpack.unpackb(header) == {
        "t": "Submit",
        "request_id": "r",
        "model_id": "m",
        "form": "images",
        "queue_ttl_ms": 1.0,
        "inference_ttl_ms": 2.5,
    }


def test_headers_written_by_others_are_read_and_unknown_fields_ignored():
    header = msgpack.packb({"t": "Publish", "topic": "job.1", "body": {"progress": 0.5}, "since": "a newer version"})
    assert codec.to_broker([PROTOCOL, header])[0] == Publish(topic="job.1", body={"progress": 0.5})


MODEL = messages.LoadedModel(model_id="m", engine="openvino", precision="int8", batch_size=8, memory_mb=1.5)
WORKER = messages.WorkerStatus(worker_id="w", busy=1, credit=3, silent_ms=0.25, models=[MODEL])
EVERY_FIELD = [
    Submit(
        request_id="r",
        model_id="m",
        form="tensors",
        queue_ttl_ms=1.5,
        inference_ttl_ms=2.5,
        top_k=7,
        raw_outputs=True,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
    Publish(topic="job.1", body={"progress": 0.5, "names": ["ü", None, True, {"deep": b"bytes"}]}),
    messages.Cancel(request_id="r"),
    AskStatus(),
    messages.Ready(worker_id="w", boot_id="b", credit=4, inflight=["r1", "r2"]),
    messages.Heartbeat(boot_id="b", models=[MODEL]),
    messages.Bye(boot_id="b"),
    Done(request_id="r", engine="e", precision="p", batch_size=2, queue_ms=1.5, decode_ms=0.0, inference_ms=1e-9),
    messages.Failed(request_id="r", code="bad_image", message="ü", retry_after_ms=1.5),
    Assign(request_id="r", model_id="m", form="images", ttl_ms=1.5, waited_ms=0.5, alone=True, top_k=1),
    WhoAreYou(),
    messages.Status(
        boot_id="b",
        depth=1,
        depth_limit=2,
        queued_bytes=3,
        queued_bytes_limit=4,
        in_flight=5,
        draining=True,
        completed=2**40,
        failed=0,
        workers=[WORKER],
    ),
    Event(seq=1, boot_id="b", topic="t", time="2026-01-31T08:15:30.250Z", body={"x": 1}),
]


@pytest.mark.parametrize("message", EVERY_FIELD, ids=lambda message: type(message).__name__)
def test_every_message_comes_back_as_it_was_sent(message):
    readers = [decoder for decoder, union in DIRECTIONS.items() if type(message) in members(union)]
    assert readers
    for decoder in readers:
        assert decoder(codec.encode(message, [b"one", b""])) == (message, [b"one", b""])


def test_every_message_is_tried():
    assert {type(message) for message in EVERY_FIELD} == set(Message.__subclasses__())


BAD = {
    "nothing": [],
    "no header": [PROTOCOL],
    "another protocol": [b"cvp/2", msgpack.packb({"t": "AskStatus"})],
    "an empty header": [PROTOCOL, b""],
    "no map": [PROTOCOL, msgpack.packb([1, 2])],
    "an unknown tag": [PROTOCOL, msgpack.packb({"t": "Shutdown"})],
    "a tag of another direction": [PROTOCOL, msgpack.packb({"t": "WhoAreYou"})],
    "a missing field": [PROTOCOL, msgpack.packb({"t": "Bye"})],
    "a wrong type": [PROTOCOL, msgpack.packb({"t": "Bye", "boot_id": 7})],
    "an overlong id": [PROTOCOL, msgpack.packb({"t": "Bye", "boot_id": "x" * 257})],
    "text that is no UTF-8": [PROTOCOL, b"\x82\xa1t\xa3Bye\xa7boot_id\xa2\xff\xfe"],
    "bytes after the end": [PROTOCOL, msgpack.packb({"t": "AskStatus"}) + b"\x00"],
    "nesting without end": [PROTOCOL, b"\x83\xa1t\xa7Publish\xa5topic\xa1a\xa4body\x81\xa1x" + b"\x91" * 100_000],
    "a list of billions": [PROTOCOL, b"\x83\xa1t\xa7Publish\xa5topic\xa1a\xa4body\x81\xa1x\xdd\xff\xff\xff\xff"],
    "a header over the limit": [
        PROTOCOL,
        msgpack.packb({"t": "Publish", "topic": "a", "body": {"x": "y" * codec.MAX_HEADER_BYTES}}),
    ],
    "too many blobs": [PROTOCOL, msgpack.packb({"t": "AskStatus"}), *[b""] * (codec.MAX_BLOBS + 1)],
}


@pytest.mark.parametrize("frames", BAD.values(), ids=BAD)
def test_bad_frames_are_one_error(frames):
    with pytest.raises(BadFrames):
        codec.to_broker(frames)
    with pytest.raises(BadFrames):
        codec.to_broker([zmq.Frame(frame) for frame in frames])


@given(
    frames=st.lists(st.binary(max_size=64), max_size=4),
    flips=st.lists(st.tuples(st.integers(0), st.binary(min_size=1, max_size=1))),
)
def test_no_bytes_raise_anything_else(frames, flips):
    header = bytearray(codec.encode(SUBMIT)[1])
    for position, byte in flips:
        header[position % len(header)] = byte[0]
    for attempt in (frames, [PROTOCOL, *frames], [PROTOCOL, bytes(header)]):
        for decoder in DIRECTIONS:
            with suppress(BadFrames):
                decoder(attempt)


@pytest.mark.parametrize(
    ("message", "blobs"),
    [
        (Publish(topic="a", body={"x": "y" * codec.MAX_HEADER_BYTES}), []),
        (Publish(topic="a", body={"x": object()}), []),
        (Publish(topic="a", body={"x": 2**64}), []),
        (AskStatus(), [b""] * (codec.MAX_BLOBS + 1)),
    ],
    ids=["too large", "no MessagePack type", "too large a number", "too many blobs"],
)
def test_what_cannot_be_sent_is_the_same_error(message, blobs):
    with pytest.raises(BadFrames):
        codec.encode(message, blobs)


def test_the_status_of_a_large_machine_can_be_sent():
    """A gateway that hears none takes the broker for gone."""
    models = [msgspec.structs.replace(MODEL, model_id=f"mdl_{number:022x}") for number in range(200)]
    workers = [msgspec.structs.replace(WORKER, models=models)] * 128
    status = next(message for message in EVERY_FIELD if isinstance(message, messages.Status))
    codec.encode(msgspec.structs.replace(status, workers=workers))


def test_received_frames_pass_through_without_a_copy():
    blob = zmq.Frame(b"jpeg")
    _, [passed] = codec.to_worker([*map(zmq.Frame, codec.encode(WhoAreYou())), blob])
    assert passed is blob
    assert codec.encode(WhoAreYou(), [passed])[2] is blob


def test_sockets_refuse_anything_but_ipc():
    with pytest.raises(ValueError, match="only ipc://"):
        sockets.dealer("tcp://127.0.0.1:5555")


def event(seq: int, boot_id: str = "boot") -> Event:
    return Event(seq=seq, boot_id=boot_id, topic="t", time="2026-01-31T08:15:30.250Z")


@pytest.mark.parametrize(
    ("last", "now", "reason"),
    [
        (None, event(9), None),
        (event(9), event(10), None),
        (event(9), event(13), "3 events were lost"),
        (event(9), event(1, "another"), "the broker restarted"),
        (event(9), event(10, "another"), "the broker restarted"),
    ],
)
def test_missed_events_are_noticed(last, now, reason):
    assert _missing(last, now) == reason
