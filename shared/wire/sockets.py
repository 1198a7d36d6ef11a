"""The only place that makes zmq sockets: every option that keeps a queue finite and a wait bounded is set here.

All sends and receives are non-blocking; waiting is done with a poller or an event loop. A socket belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import zmq

from shared.wire.codec import MAX_BLOB_BYTES, Part

Socket = zmq.Socket[bytes]

HIGH_WATER_MARK = 10_000
"""Messages a connection may hold in each direction before `send` refuses; more than one client ever has pending."""
REQUESTS_HIGH_WATER_MARK = 2_000
"""The same for what a `dealer` sends: these messages carry images."""
LINGER_MS = 1000
"""How long a closed socket goes on sending what it already took."""
RECONNECT_MS = 30
PING_MS = 1000
PONG_MS = 5000
"""A connection that does not answer a ping for so long is made anew: once another peer has taken its name over, the
broker hears nothing on it any more, and does not say so."""
BACKLOG = 1024

IPC = "ipc://"

# A frame each, below pyzmq's own loops over the frames, which take three times as long as the frames themselves. Bytes
# are copied: zero-copy of a fresh object costs a clean-up thread. Received frames pass by reference.
_send, _receive = zmq.backend.Socket.send, zmq.backend.Socket.recv
_AT_ONCE = int(zmq.NOBLOCK)
_NOT_THE_LAST = int(zmq.NOBLOCK | zmq.SNDMORE)


def router(endpoint: str) -> Socket:
    """The broker's socket. `send` is false for a peer that is gone; a restarted peer takes its name over."""
    socket = _make(zmq.ROUTER, endpoint)
    socket.set(zmq.ROUTER_MANDATORY, 1)
    socket.set(zmq.ROUTER_HANDOVER, 1)
    socket.set(zmq.MAXMSGSIZE, MAX_BLOB_BYTES)  # a peer that sends a larger frame is disconnected
    return _bind(socket, endpoint)


def publisher(endpoint: str) -> Socket:
    """The broker's PUB. A subscriber that is too slow loses events, never the broker its time."""
    return _bind(_make(zmq.PUB, endpoint), endpoint)


def dealer(endpoint: str, identity: bytes = b"") -> Socket:
    """A connection to the broker. `send` is false while there is no broker: nothing is kept for one that comes later.

    The price (libzmq's `ZMQ_IMMEDIATE`): what was received and not read yet is lost when the broker goes.

    Args:
        endpoint: The broker's ROUTER.
        identity: The name the broker answers to, one live process each; empty for a sender that expects no answers.
    """
    socket = _make(zmq.DEALER, endpoint)
    socket.set(zmq.SNDHWM, REQUESTS_HIGH_WATER_MARK)
    if identity:
        socket.set(zmq.IDENTITY, identity)
    socket.set(zmq.IMMEDIATE, 1)
    socket.set(zmq.HEARTBEAT_IVL, PING_MS)
    socket.set(zmq.HEARTBEAT_TIMEOUT, PONG_MS)
    return _connect(socket, endpoint)


def subscriber(endpoint: str, topics: Iterable[str]) -> Socket:
    """A connection to the broker's PUB for the topics with these prefixes."""
    socket = _make(zmq.SUB, endpoint)
    for topic in topics:
        socket.subscribe(topic)
    return _connect(socket, endpoint)


def send(socket: Socket, parts: Sequence[Part]) -> bool:
    """Hand one message over; false if nobody takes it: the peer is gone, or so slow that its queue is full."""
    *first, last = parts
    try:
        for part in first:
            _send(socket, part, _NOT_THE_LAST)
        _send(socket, last, _AT_ONCE)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno != zmq.EHOSTUNREACH:
            raise
        return False
    return True


def receive(socket: Socket) -> list[bytes] | None:
    """The next message as bytes, or None if none is waiting."""
    frames = receive_frames(socket)
    return None if frames is None else [frame.bytes for frame in frames]


def receive_frames(socket: Socket) -> list[zmq.Frame] | None:
    """The next message as frames that can be sent on without a copy, or None if none is waiting."""
    try:
        frame = _receive(socket, _AT_ONCE, False)
    except zmq.Again:
        return None
    frames = [frame]
    while frame.more:
        frame = _receive(socket, _AT_ONCE, False)
        frames.append(frame)
    return frames


def readable(socket: Socket) -> bool:
    """Whether `receive` would return something. It also re-arms the descriptor, which is edge-triggered."""
    return bool(cast(int, socket.get(zmq.EVENTS)) & zmq.POLLIN)


def writable(socket: Socket) -> bool:
    """Whether `send` would be true: somebody is connected and keeps up. It re-arms the descriptor like `readable`."""
    return bool(cast(int, socket.get(zmq.EVENTS)) & zmq.POLLOUT)


def fd(socket: Socket) -> int:
    """The descriptor for an event loop: readable means *ask `readable` now*, and it does not say so twice."""
    return cast(int, socket.get(zmq.FD))


def close(socket: Socket) -> None:
    """Close for good. Waits up to `LINGER_MS` for what is still being sent. Every socket has its own context."""
    socket.close()
    socket.context.term()


def _make(kind: int, endpoint: str) -> Socket:
    if not endpoint.startswith(IPC):
        raise ValueError(f"{endpoint}: only {IPC} endpoints are allowed, other transports would need encryption")
    socket: Socket = zmq.Context().socket(kind)
    socket.set(zmq.SNDHWM, HIGH_WATER_MARK)
    socket.set(zmq.RCVHWM, HIGH_WATER_MARK)
    socket.set(zmq.LINGER, LINGER_MS)
    return socket


def _connect(socket: Socket, endpoint: str) -> Socket:
    socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.connect(endpoint)
    return socket


def _bind(socket: Socket, endpoint: str) -> Socket:
    socket.set(zmq.BACKLOG, BACKLOG)
    socket.bind(endpoint)
    Path(endpoint.removeprefix(IPC)).chmod(0o600)
    return socket
